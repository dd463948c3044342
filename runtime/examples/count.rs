//! Runs a model some times with the fastest kernels of this processor: the program whose instructions are counted.
//!
//! `count FILE.sfm RUNS [whole] [ops]`. With `whole` operators run at once for all their rows. With `ops` every run calls
//! `getppid` before the first operator and after each one: a counter that watches system calls then knows what each takes.
//! Prints the kind of operator between each two calls, then the digest of the outputs.

use shiftformer::arith::digest;
use shiftformer::kernels::Native;
use shiftformer::ops::OpTable;
use shiftformer::{AlignedBytes, Model, Observer, Session};
use std::error::Error;
use std::os::unix::process::parent_id;

/// Marks the end of every operator, or of a block of its rows; keeps which it was.
struct Marks(Vec<usize>);

impl Observer for Marks {
    const WATCHES_OUTPUT: bool = false;

    fn ran(&mut self, op: usize) {
        mark();
        self.0.push(op);
    }
}

/// The call that counters look for.
fn mark() {
    std::hint::black_box(parent_id());
}

/// Marks that fit without an allocation among what is counted.
const MARKS: usize = 1 << 16;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, runs, rest @ ..] = args.as_slice() else { return Err("usage: count FILE.sfm RUNS [ops]".into()) };
    let runs: u32 = runs.parse()?;
    let [marks, whole] = ["ops", "whole"].map(|option| rest.iter().any(|arg| arg == option));
    let file = AlignedBytes::from(&std::fs::read(path)?[..]);
    let model = Model::open_with(&file, OpTable::<Native>::ALL)?;
    let mut tables = vec![0; model.whole_tables_bytes()];
    let model = if whole { model.whole(&mut tables)? } else { model };
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let mut session = Session::new(&model, &mut arena)?;
    let mut marked = Marks(Vec::with_capacity(MARKS));
    for _ in 0..runs {
        let mut index = 0;
        while let Some(input) = session.input_mut(index) {
            input.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 37 % 251) as u8);
            index += 1;
        }
        if marks {
            mark();
            session.run_with(&mut marked)?;
        } else {
            session.run()?;
        }
    }
    for op in marked.0 {
        println!("{}", model.op_kind(op).map_or("", |kind| kind.name()));
    }
    for index in 0..model.n_outputs() {
        println!("{:016x}", digest::digest(session.output(index).unwrap_or(&[])));
    }
    Ok(())
}
