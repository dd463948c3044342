//! Time that other work on the machine distorts least: that of the thread on its processor, where the system tells it.

/// What [`now`] counts.
pub const WHAT: &str = if cfg!(unix) { "processor time" } else { "wall time" };

/// Seconds this thread has run.
#[cfg(unix)]
pub fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Seconds since the first call.
#[cfg(not(unix))]
pub fn now() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}

/// Seconds that `work` takes.
pub fn time<T>(work: impl FnOnce() -> T) -> f64 {
    let started = now();
    std::hint::black_box(work());
    now() - started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time() {
        let work = || (0..200_000u64).fold(1, |sum: u64, i| sum.wrapping_mul(std::hint::black_box(i | 1)));
        assert!(time(work) > 0.0);
    }
}
