//! `--threads` of the commands that run models on this machine.

use super::failure::Failure;

/// More than most machines have; far fewer than a system refuses to start.
const MOST: usize = 1024;

#[derive(clap::Args)]
pub struct Threads {
    /// Threads of this machine, by default one per core: they share the samples, or the rows of each sample where there
    /// are fewer samples than threads. The bytes do not depend on it.
    #[arg(long, value_name = "N", value_parser = parse)]
    threads: Option<usize>,
}

/// A number of threads.
pub fn parse(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
    count.ok_or_else(|| format!("not a number from 1 to {MOST}"))
}

impl Threads {
    /// Starts them, for the whole process, before anything runs in parallel.
    pub fn start(&self) -> Result<(), Failure> {
        let Some(threads) = self.threads else { return Ok(()) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global().map_err(|e| Failure::Usage(format!("cannot start {threads} threads: {e}; ask for fewer")))
    }
}
