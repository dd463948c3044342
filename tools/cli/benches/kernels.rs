//! Single kernels: every instruction set of this processor beside the portable definition.
//!
//! Shapes are those of DeiT-Tiny: 197 tokens, width 192, MLP 768, heads of 64. Throughput counts multiply-accumulates
//! where there are any, else elements.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use shiftformer::AlignedBytes;
use shiftformer::arith::exp::RowScale;
use shiftformer::kernels::{
    AttentionJob, ExpRow, Kernels, LinearJob, LinearOut, NormJob, NormOut, NormRow, PackedWeights, Portable,
    ScoreScale, dense_scratch_bytes,
};
use shiftformer::weights::WeightFormat;
use std::hint::black_box;
use std::time::Duration;

const TOKENS: usize = 197;
const WIDTH: usize = 192;
const HIDDEN: usize = 768;
const HEAD: usize = 64;
/// A multiplier of about a half.
const HALF: i32 = 1 << 30;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    for (rows, k, n, format) in [
        (TOKENS, WIDTH, 3 * WIDTH, WeightFormat::I8),
        (TOKENS, WIDTH, HIDDEN, WeightFormat::I8),
        (TOKENS, HIDDEN, WIDTH, WeightFormat::I8),
        (5, HIDDEN, WIDTH, WeightFormat::I8),
        (1, HIDDEN, WIDTH, WeightFormat::I8),
        (TOKENS, WIDTH, WIDTH, WeightFormat::I4),
    ] {
        let name = format!("linear {rows}x{k}x{n}, {}-bit weights", format.bits());
        let group = criterion.benchmark_group(name);
        everywhere(group, (rows * k * n) as u64, &Linear { rows, k, n, format });
    }
    everywhere(criterion.benchmark_group("attention head 197x64"), (2 * TOKENS * TOKENS * HEAD) as u64, &Attention);
    everywhere(criterion.benchmark_group("layer_norm row 192"), WIDTH as u64, &Norm);
    everywhere(criterion.benchmark_group("exponentials row 197"), TOKENS as u64, &Exponentials);
    everywhere(criterion.benchmark_group("division by the row sum 64"), HEAD as u64, &Division);
    everywhere(criterion.benchmark_group("table 768"), HIDDEN as u64, &Table);
    everywhere(criterion.benchmark_group("residual addition 192"), WIDTH as u64, &Addition);
    criterion.final_summary();
}

/// A kernel with its operands.
trait Work {
    /// A closure that runs the kernel once with the kernels `B`; `None` where they leave the work to others.
    fn with<B: Kernels>(&self) -> Option<Box<dyn FnMut()>>;
}

/// Measures `work` with all kernels there are.
fn everywhere(mut group: BenchmarkGroup<'_, WallTime>, per_run: u64, work: &impl Work) {
    group.throughput(Throughput::Elements(per_run));
    measure::<Portable>(&mut group, work);
    #[cfg(target_arch = "x86_64")]
    {
        use shiftformer::kernels::x86::{Avx2, Avx512, AvxVnni};
        if Avx2::is_available() {
            measure::<Avx2>(&mut group, work);
        }
        if AvxVnni::is_available() {
            measure::<AvxVnni>(&mut group, work);
        }
        if Avx512::is_available() {
            measure::<Avx512>(&mut group, work);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    measure::<shiftformer::kernels::Native>(&mut group, work);
    group.finish();
}

fn measure<B: Kernels>(group: &mut BenchmarkGroup<'_, WallTime>, work: &impl Work) {
    if let Some(mut run) = work.with::<B>() {
        group.bench_function(B::NAME, |b| b.iter(&mut run));
    }
}

/// `len` values without order, the same in every run, made of the bits of `from`.
fn values<T>(len: usize, from: impl Fn(u64) -> T) -> Vec<T> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state >> 33
    };
    (0..len).map(|_| from(next())).collect()
}

fn i8s(len: usize) -> Vec<i8> {
    values(len, |bits| bits as i8)
}

struct Linear {
    rows: usize,
    k: usize,
    n: usize,
    format: WeightFormat,
}

impl Work for Linear {
    fn with<B: Kernels>(&self) -> Option<Box<dyn FnMut()>> {
        let &Self { rows, k, n, format } = self;
        let x = i8s(rows * k);
        let weights = values(PackedWeights::bytes_for(n, k, format), |bits| bits as u8);
        let (bias, multipliers) = (vec![0; n.next_multiple_of(4)], vec![HALF; n.next_multiple_of(4)]);
        let mut scratch = AlignedBytes::zeroed(dense_scratch_bytes(k, format));
        let mut out = vec![0i8; rows * n];
        Some(Box::new(move || {
            let weights = PackedWeights { bytes: &weights, format };
            let (bias, multipliers) = (&bias[..], &multipliers[..]);
            let job = LinearJob {
                rows,
                k,
                n,
                x_stride: k,
                out_stride: n,
                weights,
                bias,
                multipliers,
                acc_shift: 0,
                zero_point: 3,
            };
            let scratch = bytemuck::cast_slice_mut(&mut scratch);
            B::linear(&job, &x, LinearOut::I8 { out: black_box(&mut out), lut: None }, scratch);
        }))
    }
}

struct Attention;

impl Work for Attention {
    fn with<B: Kernels>(&self) -> Option<Box<dyn FnMut()>> {
        if !B::ATTENDS {
            return None;
        }
        let [q, k, v] = [(); 3].map(|()| i8s(TOKENS * HEAD));
        let mut out = vec![0i8; TOKENS * HEAD];
        Some(Box::new(move || {
            let job = AttentionJob {
                q: &q,
                k: &k,
                v: &v,
                rows: TOKENS,
                n_k: TOKENS,
                head_dim: HEAD,
                v_dim: HEAD,
                q_stride: HEAD,
                k_stride: HEAD,
                v_stride: HEAD,
                out_stride: HEAD,
                scale: ScoreScale { acc_shift: 0, multiplier: HALF >> 6 },
                biases: [None, None],
                wide_exp: false,
                ratio_m: 20_000,
                ratio_shift: 15,
                zero_point: 0,
            };
            B::attention(&job, black_box(&mut out));
        }))
    }
}

struct Norm;

impl Work for Norm {
    fn with<B: Kernels>(&self) -> Option<Box<dyn FnMut()>> {
        let x = values(WIDTH, |bits| bits as i16);
        let (gamma, beta) = (vec![HALF; WIDTH], vec![128; WIDTH]);
        let mut out = vec![0i8; WIDTH];
        Some(Box::new(move || {
            let job = NormJob { rms: false, eps: 1, gamma: &gamma, beta: &beta };
            B::norm_row(&job, NormRow::I16(&x), NormOut::I8(black_box(&mut out)));
        }))
    }
}

struct Exponentials;

impl Work for Exponentials {
    fn with<B: Kernels>(&self) -> Option<Box<dyn FnMut()>> {
        let scores = values(TOKENS, |bits| (bits & 0xfff) as i32);
        let mut out = vec![0u8; TOKENS];
        Some(Box::new(move || {
            black_box(B::exp_row(&scores, ExpRow::U8(black_box(&mut out))));
        }))
    }
}

struct Division;

impl Work for Division {
    fn with<B: Kernels>(&self) -> Option<Box<dyn FnMut()>> {
        let acc = values(HEAD, |bits| (bits & 0xf_ffff) as i32);
        let mut out = vec![0i8; HEAD];
        Some(Box::new(move || {
            let scale = RowScale::new(black_box(20_000), 20_000, 15);
            B::scale_row(&acc, scale, 0, black_box(&mut out));
        }))
    }
}

struct Table;

impl Work for Table {
    fn with<B: Kernels>(&self) -> Option<Box<dyn FnMut()>> {
        let table: Box<[i8; 256]> = Box::new(std::array::from_fn(|i| (i * 7) as u8 as i8));
        let mut data = i8s(HIDDEN);
        Some(Box::new(move || B::lut_in_place(black_box(&mut data), &table)))
    }
}

struct Addition;

impl Work for Addition {
    fn with<B: Kernels>(&self) -> Option<Box<dyn FnMut()>> {
        let mut out = values(WIDTH, |bits| bits as i16);
        let other = values(WIDTH, |bits| bits as i16);
        Some(Box::new(move || B::add_i16_in_place(black_box(&mut out), &other, 1 << 14, 1 << 14, 1 << 13, 14)))
    }
}
