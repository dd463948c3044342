//! Time of one run: that of the thread's processor where the system tells it, else of the clock on the wall.

/// What is measured.
pub const WHAT: &str = if cfg!(unix) { "processor time" } else { "wall time" };

/// A point in time, in seconds.
pub struct Time;

impl Time {
    /// Seconds that `work` takes.
    pub fn of<T>(work: impl FnOnce() -> T) -> f64 {
        let started = now();
        std::hint::black_box(work());
        now() - started
    }
}

/// Seconds of processor time of this thread.
#[cfg(unix)]
pub fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which writes it and nothing else.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the system has no clock for threads");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Seconds since the first call.
#[cfg(not(unix))]
pub fn now() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}

/// Times of many runs, in seconds.
#[derive(Clone, Copy)]
pub struct Summary {
    pub runs: usize,
    pub least: f64,
    pub median: f64,
}

/// Least and median of `times`, of which there is at least one.
pub fn summary(times: &[f64]) -> Summary {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    Summary { runs: sorted.len(), least: sorted[0], median: sorted[sorted.len() / 2] }
}
