//! `shiftformer codegen`.

use super::failure::{Failure, Verdict};
use super::inspect::{open, read_model};
use super::output;
use super::output::OutputFile;
use clap::ValueEnum;
use shiftformer_lab::codegen::{c_header, rust_module};
use shiftformer_lab::summary::summarize;
use std::path::{Component, Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// Where the source goes; stdout if not given.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Language; by default C where the output ends in .h or .c, else Rust.
    #[arg(long, value_enum)]
    lang: Option<Lang>,
    /// The path in `include_bytes!`; by default that of the model, relative to the output.
    #[arg(long, value_name = "PATH")]
    include: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lang {
    /// A module with the model in `include_bytes!`.
    Rust,
    /// A C99 header with the model as an array.
    C,
}

impl Lang {
    /// The language that the name of the output says.
    fn of(output: Option<&Path>) -> Self {
        match output.and_then(Path::extension).and_then(|e| e.to_str()) {
            Some("h" | "hpp" | "c") => Lang::C,
            _ => Lang::Rust,
        }
    }
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let file = read_model(&args.file)?;
    let model = open(&file, &args.file)?;
    let summary = summarize(&model, file.annotations());
    let name = args.file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let text = match args.lang.unwrap_or_else(|| Lang::of(args.output.as_deref())) {
        Lang::Rust => {
            let folder = args.output.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
            let include = args.include.clone().unwrap_or_else(|| relative(&args.file, folder));
            rust_module(&model, &summary, &name, &include)
        }
        Lang::C => {
            let stem = args.file.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            c_header(&model, &summary, &stem, &name)
        }
    };
    match &args.output {
        Some(path) => OutputFile::create(path)?.finish(text.as_bytes())?,
        None => output::print(&text),
    }
    Ok(Verdict::Passed)
}

/// The path of `file` as seen from `folder`; absolute where there is no common root.
pub fn relative(file: &Path, folder: &Path) -> String {
    let absolute = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    };
    let (file, folder) = (absolute(file), absolute(folder));
    let common = file.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    if common == 0 {
        return file.display().to_string();
    }
    let up = folder.components().skip(common).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(file.components().skip(common)).collect();
    // `include_bytes!` takes forward slashes everywhere.
    path.display().to_string().replace('\\', "/")
}
