//! Runs all one million sums of two three-digit numbers with an arithmetic model and counts the exact answers.
//!
//! ```text
//! cargo run --release -p shiftformer-tests --example sums -- models/arithmetic/arithmetic.sfm
//! cargo run --release -p shiftformer-tests --example sums -- PLAIN.sfm plain
//! ```
//!
//! A line is `$128+367=5940$`, the sum with its last digit first, or `$128+367=0495$` as `plain`. An answer is exact when
//! each of its four digits and the closing `$` have the largest logit behind the right characters before them: then, and
//! only then, does the model write it by itself. Models are taken with a key/value cache (one character at a time, common
//! beginnings computed once) or without one (whole lines).

use rayon::prelude::*;
use shiftformer::kernels::{Kernels, Native};
use shiftformer::text::Logits;
use shiftformer::{Model, Session};
use shiftformer_convert::model_file::ModelFile;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Characters of a line but the last, which nothing follows.
const LENGTH: usize = 13;
/// Place of the first digit of the sum.
const ANSWER: usize = 9;
const PLUS: i32 = 10;
const EQUALS: i32 = 11;
const END: i32 = 12;

/// How the digits of the sum are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Reversed,
    Plain,
}

/// Numbers of the characters of `$a+b=sum$`.
fn line(a: i32, b: i32, format: Format) -> [i32; LENGTH + 1] {
    let digit = |x: i32, place: u32| x / 10i32.pow(place) % 10;
    let mut sum = [0, 1, 2, 3].map(|place| digit(a + b, place));
    if format == Format::Plain {
        sum.reverse();
    }
    let [first, second, third, fourth] = sum;
    let (a, b) = ([2, 1, 0].map(|place| digit(a, place)), [2, 1, 0].map(|place| digit(b, place)));
    [END, a[0], a[1], a[2], PLUS, b[0], b[1], b[2], EQUALS, first, second, third, fourth, END]
}

/// The exact answers among the sums of `a` with every second number.
fn exact_with<B: Kernels>(model: &Model<'_, B>, a: i32, format: Format) -> Result<usize, Box<dyn Error>> {
    let aligned = |bytes: usize| vec![0u128; bytes.div_ceil(16)];
    let (mut arena, mut state) = (aligned(model.arena_bytes()), aligned(model.state_bytes()));
    let (arena, state) = (bytemuck::cast_slice_mut(&mut arena), bytemuck::cast_slice_mut(&mut state));
    let mut session = Session::with_state(model, arena, state)?;
    let mut exact = 0;
    let mut known = [END; LENGTH + 1];
    for b in 0..1000 {
        let line = line(a, b, format);
        let right = if model.state_bytes() > 0 {
            // What the line before had in common is in the cache.
            let common = line.iter().zip(&known).take(LENGTH).take_while(|(now, before)| now == before).count();
            let common = if b == 0 { 0 } else { common.min(ANSWER - 1) };
            session.truncate(common as u32);
            step_through(&mut session, &line, common)?
        } else {
            session.input_as::<i32>(0).ok_or("the input is not 32-bit ids")?.copy_from_slice(&line[..LENGTH]);
            session.run()?;
            (ANSWER - 1..LENGTH).all(|row| largest(&session, row) == u32::try_from(line[row + 1]).ok())
        };
        exact += usize::from(right);
        known = line;
    }
    Ok(exact)
}

/// Whether the answer is exact, one character after the other from `first` on.
fn step_through<B: Kernels>(
    session: &mut Session<'_, '_, B>,
    line: &[i32; LENGTH + 1],
    first: usize,
) -> Result<bool, Box<dyn Error>> {
    for at in first..LENGTH {
        session.push(u32::try_from(line[at])?)?;
        if at >= ANSWER - 1 && largest(session, 0) != u32::try_from(line[at + 1]).ok() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The character with the largest logit in a row of the output.
fn largest<B: Kernels>(session: &Session<'_, '_, B>, row: usize) -> Option<u32> {
    Logits::row(&session.model().output(0)?, session.output(0)?, row)?.argmax()
}

fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, format) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [path] | [path, "reversed"] => (path, Format::Reversed),
        [path, "plain"] => (path, Format::Plain),
        _ => return Err("usage: sums FILE.sfm [reversed|plain]".into()),
    };
    let file = ModelFile::read(Path::new(path))?;
    let model = file.open::<Native>()?;
    let start = Instant::now();
    let counts = (0..1000).into_par_iter().map(|a| exact_with(&model, a, format).map_err(|fault| fault.to_string()));
    let exact: usize = counts.collect::<Result<Vec<_>, _>>()?.into_iter().sum();
    println!("{exact} of 1000000 sums exact, {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("error: {fault}");
            ExitCode::from(2)
        }
    }
}
