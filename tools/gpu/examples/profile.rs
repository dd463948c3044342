//! Where the time of a model goes on a GPU: `cargo run --release -p shiftformer-gpu --example profile -- MODEL.sfm [BATCH]`.
//!
//! The inputs are zeros. Times are the device's own, per shader over all operators.

use shiftformer::Model;
use shiftformer_gpu::{Gpu, GpuModel, Selection};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: profile MODEL.sfm [BATCH]")?;
    let batch: usize = args.next().map_or(Ok(64), |n| n.parse())?;
    let bytes = std::fs::read(path)?;
    // The reader wants the file at an address divisible by 16.
    let mut words = vec![0u128; bytes.len().div_ceil(16)];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(&bytes);
    let model = Model::open(&bytemuck::cast_slice(&words)[..bytes.len()])?;
    println!("{} operators", model.n_ops());
    let gpu = Arc::new(Gpu::new(&Selection::Best)?);
    let mut uploaded = GpuModel::upload(&gpu, &model, batch)?;
    let sample: Vec<_> = (0..model.n_inputs()).filter_map(|i| model.input(i)).map(|t| vec![0; t.bytes()]).collect();
    let times = uploaded.profile(&vec![sample; uploaded.batch()])?;
    let mut shaders: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    for dispatch in &times {
        let entry = shaders.entry(dispatch.shader).or_default();
        *entry = (entry.0 + 1, entry.1 + dispatch.time);
    }
    let total: Duration = times.iter().map(|dispatch| dispatch.time).sum();
    let bytes = uploaded.sample_bytes();
    println!("{}, {} samples of {bytes} bytes: {:.3} ms", gpu.adapter(), uploaded.batch(), total.as_secs_f64() * 1e3);
    let mut rows: Vec<_> = shaders.into_iter().collect();
    rows.sort_by_key(|(_, (_, time))| std::cmp::Reverse(*time));
    for (shader, (count, time)) in rows {
        let share = 100.0 * time.as_secs_f64() / total.as_secs_f64();
        println!("{shader:24} {count:5} x {:10.3} ms {share:5.1} %", time.as_secs_f64() * 1e3);
    }
    Ok(())
}
