//! Times a model on one thread with the kernels of one level of this processor, whole operators.
//!
//! `levels FILE.sfm LEVEL [SECONDS]`; LEVEL is `native`, on x86-64 `avx512`, `avx-vnni` or `avx2`, on AArch64 `neon-i8mm`,
//! `neon-dotprod` or `neon`. Prints the minimum and the median as JSON, in ms: of processor time on 64-bit Linux, where other
//! work does not stretch it, else of wall time.

use shiftformer::kernels::{Kernels, Native};
use shiftformer::ops::OpTable;
use shiftformer::{AlignedBytes, Model, Session};
use std::error::Error;
use std::time::{Duration, Instant};

/// Runs that are timed at least.
const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, level, rest @ ..] = args.as_slice() else { return Err("usage: levels FILE.sfm LEVEL [SECONDS]".into()) };
    let seconds = rest.first().map_or(Ok(1.0), |seconds| seconds.parse())?;
    let file = AlignedBytes::from(&std::fs::read(path)?[..]);
    let time = Duration::from_secs_f64(seconds);
    let mut times = by_level(level, &file, time)?;
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    println!("{{\"least_ms\": {:.4}, \"median_ms\": {:.4}}}", ms(times.first()), ms(times.get(times.len() / 2)));
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn by_level(level: &str, file: &[u8], time: Duration) -> Result<Vec<Duration>, Box<dyn Error>> {
    use shiftformer::kernels::x86::{Avx2, Avx512, AvxVnni};
    match level {
        "native" => timed::<Native>(true, file, time),
        "avx512" => timed::<Avx512>(Avx512::is_available(), file, time),
        "avx-vnni" => timed::<AvxVnni>(AvxVnni::is_available(), file, time),
        "avx2" => timed::<Avx2>(Avx2::is_available(), file, time),
        _ => Err("x86-64 has native, avx512, avx-vnni and avx2".into()),
    }
}

#[cfg(target_arch = "aarch64")]
fn by_level(level: &str, file: &[u8], time: Duration) -> Result<Vec<Duration>, Box<dyn Error>> {
    use shiftformer::kernels::neon::{Neon, NeonDot, NeonI8mm};
    match level {
        "native" => timed::<Native>(true, file, time),
        "neon-i8mm" => timed::<NeonI8mm>(NeonI8mm::is_available(), file, time),
        "neon-dotprod" => timed::<NeonDot>(NeonDot::is_available(), file, time),
        "neon" => timed::<Neon>(true, file, time),
        _ => Err("AArch64 has native, neon-i8mm, neon-dotprod and neon".into()),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn by_level(level: &str, file: &[u8], time: Duration) -> Result<Vec<Duration>, Box<dyn Error>> {
    match level {
        "native" => timed::<Native>(true, file, time),
        _ => Err("there is only native here".into()),
    }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod clock {
    use core::ffi::{c_int, c_long};
    use std::time::Duration;

    /// The processor time of the calling thread.
    const THREAD: c_int = 3;

    #[repr(C)]
    #[derive(Default)]
    struct Timespec {
        seconds: c_long,
        nanoseconds: c_long,
    }

    unsafe extern "C" {
        fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
    }

    pub fn now() -> Duration {
        let mut time = Timespec::default();
        // SAFETY: the structure has the layout of the C library on 64-bit Linux. Where there is no such clock it stays 0.
        unsafe { clock_gettime(THREAD, &mut time) };
        Duration::new(time.seconds.unsigned_abs(), time.nanoseconds as u32)
    }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod clock {
    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    pub fn now() -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// The times of single runs.
fn timed<B: Kernels>(available: bool, file: &[u8], time: Duration) -> Result<Vec<Duration>, Box<dyn Error>> {
    if !available {
        return Err(format!("this processor has no {}", B::NAME).into());
    }
    let model = Model::open_with(file, OpTable::<B>::ALL)?;
    let mut tables = vec![0; model.whole_tables_bytes()];
    let model = model.whole(&mut tables)?;
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let mut session = Session::new(&model, &mut arena)?;
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() <= RUNS || start.elapsed() < time {
        let mut index = 0;
        while let Some(input) = session.input_mut(index) {
            input.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 37 % 251) as u8);
            index += 1;
        }
        let start = clock::now();
        session.run()?;
        times.push(clock::now() - start);
    }
    // The first one warms the caches up.
    times.remove(0);
    Ok(times)
}
