//! `shiftformer merge`.

use super::eval::EvalOutput;
use super::failure::{Failure, Verdict};
use super::output;
use shiftformer_lab::eval::metrics::Score;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Results of `eval --shard I/N --json`.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let mut merged: Option<EvalOutput> = None;
    let mut score = Score::default();
    let mut shards = Vec::new();
    for path in &args.files {
        let text = std::fs::read_to_string(path).map_err(|source| Failure::Read { path: path.clone(), source })?;
        let part: EvalOutput =
            serde_json::from_str(&text).map_err(|source| Failure::Json { path: path.clone(), source })?;
        if let Some(first) = &merged
            && (first.model_crc != part.model_crc || first.data_samples != part.data_samples)
        {
            let why =
                format!("{} belongs to another model or data set than {}", path.display(), args.files[0].display());
            return Err(Failure::Usage(format!("{why}; merge shards of one evaluation")));
        }
        if shards.contains(&part.shard) {
            let why = format!("{} repeats a shard that was already given", path.display());
            return Err(Failure::Usage(format!("{why}; give every shard once")));
        }
        shards.push(part.shard.clone());
        score.merge(&part.sums);
        merged.get_or_insert(part);
    }
    let first = merged.ok_or_else(|| Failure::Usage("give at least one result file".to_owned()))?;
    let whole = EvalOutput { shard: None, ..first }.with_score(score);
    if args.json {
        output::json(&whole)?
    } else {
        output::print(&whole.text())
    }
    Ok(Verdict::Passed)
}
