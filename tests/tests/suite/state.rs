//! State between runs: the bytes do not depend on how positions are divided among runs, nor on what was tried before.

use shiftformer::format::{Blob, MAX_INPUTS, MAX_RANK, NO_TENSOR, OpRecord, Place, Profile, StateLayout, TensorRecord};
use shiftformer::kernels::{Kernels, Native, Portable};
use shiftformer::ops::attention::causal::{CausalAttention, WindowedAttention};
use shiftformer::ops::attention::{AttentionParams, BiasView, HeadView};
use shiftformer::ops::kv_append::KvAppend;
use shiftformer::ops::rope::Rope;
use shiftformer::ops::{Op, OpTable};
use shiftformer::tensor::Dtype;
use shiftformer::{Aligned, AlignedBytes, ArenaError, Model, Progress, RunFault, Session, SnapshotError};
use shiftformer_convert::model_file::parts::ModelParts;

/// Positions.
const CAPACITY: u32 = 12;
/// Query heads, those that share keys and values, elements of a head.
const HEADS: [u32; 3] = [4, 2, 6];
const Q_WIDTH: usize = (HEADS[0] * HEADS[2]) as usize;
const KV_WIDTH: usize = (HEADS[0] / HEADS[1] * HEADS[2]) as usize;

/// One layer of attention with rotary positions, for runs of `rows` rows: inputs q, k and v, output the mean of values.
fn model(rows: u32, wide_exp: bool, interleaved: bool) -> Vec<u8> {
    windowed(rows, wide_exp, interleaved, None)
}

/// [`model`] whose queries see the last `window` keys: single rows keep no more, in a ring.
fn windowed(rows: u32, wide_exp: bool, interleaved: bool, window: Option<u32>) -> Vec<u8> {
    let kept = window.filter(|_| rows == 1).unwrap_or(CAPACITY);
    let (mut tensors, mut arena, mut state) = (Vec::new(), 0u32, 0u32);
    let mut tensor = |place: Place, rows: u32, width: usize| {
        let mut dims = [1; MAX_RANK];
        dims[..2].copy_from_slice(&[rows, width as u32]);
        let end = if place == Place::State { &mut state } else { &mut arena };
        tensors.push(TensorRecord { dtype: Dtype::I8, place, rank: 2, window: 0, offset: *end, dims, zero_point: 0 });
        *end += (rows * width as u32).next_multiple_of(16);
        tensors.len() as u16 - 1
    };
    let [q, k, v] = [Q_WIDTH, KV_WIDTH, KV_WIDTH].map(|width| tensor(Place::Arena, rows, width));
    let [turned_q, turned_k, y] = [Q_WIDTH, KV_WIDTH, Q_WIDTH].map(|width| tensor(Place::Arena, rows, width));
    let [keys, values] = [KV_WIDTH; 2].map(|width| tensor(Place::State, kept, width));
    let [heads, kv_group, head_dim] = HEADS;
    let rotary = 4;
    let angle = |at: u32| (f64::from(at / 4) * if at % 4 < 2 { 1.0 } else { 0.1 }, at.is_multiple_of(2));
    let value = |(angle, cos): (f64, bool)| (if cos { angle.cos() } else { angle.sin() } * 32767.0).round() as i16;
    let weights: Vec<u8> = (0..CAPACITY * rotary).flat_map(|at| value(angle(at)).to_le_bytes()).collect();
    let table = Blob { offset: 0, bytes: weights.len() as u32 };
    let rope = |heads| {
        // One step in, one step out: 2^15 * 2^2 * 2^30 / 2^32 / 2^15.
        let (acc_shift, multiplier) = (2, 1 << 15);
        Op::Rope(Rope { rows, heads, head_dim, rotary, interleaved, capacity: CAPACITY, acc_shift, multiplier, table })
    };
    let append = Op::KvAppend(KvAppend { rows, width: KV_WIDTH as u32, capacity: kept });
    let view = |width: usize| HeadView { offset: 0, batch: 0, head: head_dim, row: width as u32 };
    let attention = AttentionParams {
        batch: 1,
        heads,
        kv_group,
        n_q: rows,
        n_k: kept,
        head_dim,
        v_dim: head_dim,
        wide_exp,
        acc_shift: 4,
        score_multiplier: 1 << 25,
        ratio_m: 20_000,
        ratio_shift: 14,
        zero_point: 3,
        q: view(Q_WIDTH),
        k: view(KV_WIDTH),
        v: view(KV_WIDTH),
        out: view(Q_WIDTH),
        bias0: BiasView::NONE,
        bias1: BiasView::NONE,
    };
    let attention = match window {
        None => Op::CausalAttention(CausalAttention { attention }),
        Some(window) => Op::WindowedAttention(WindowedAttention { attention, window }),
    };
    let ops = vec![rope(heads), rope(heads / kv_group), append, append, attention];
    let scratch_bytes = ops[4].scratch_bytes().next_multiple_of(16);
    let record = |inputs: &[u16], output: u16, scratch_bytes: u32| {
        let mut all = [NO_TENSOR; MAX_INPUTS];
        all[..inputs.len()].copy_from_slice(inputs);
        OpRecord {
            kind: 0,
            chained: false,
            by_rows: 0,
            inputs: all,
            output,
            scratch_offset: arena,
            scratch_bytes,
            params_offset: 0,
            params_words: 0,
        }
    };
    let records = vec![
        record(&[q], turned_q, 0),
        record(&[k], turned_k, 0),
        record(&[turned_k], keys, 0),
        record(&[v], values, 0),
        record(&[turned_q, keys, values], y, scratch_bytes),
    ];
    let parts = ModelParts {
        records,
        ops,
        tensors,
        weights,
        inputs: vec![q, k, v],
        outputs: vec![y],
        receipts: Vec::new(),
        annotations: None,
        profile: Profile::Shift,
        arena_bytes: (arena + scratch_bytes) as usize,
        state: StateLayout { bytes: state, capacity: CAPACITY, rows },
        text: Vec::new(),
    };
    parts.write().unwrap()
}

/// Memory of a session.
struct Memory {
    file: AlignedBytes,
    arena: AlignedBytes,
    state: AlignedBytes,
}

impl Memory {
    fn new(file: &[u8]) -> Self {
        // What is there before a run counts for nothing.
        let garbage = |len: usize| AlignedBytes::from(&vec![0xa5; len][..]);
        Self { file: AlignedBytes::from(file), arena: garbage(16 * 1024), state: garbage(1024) }
    }

    fn with<B: Kernels, T>(&mut self, f: impl FnOnce(&mut Session<'_, '_, B>) -> T) -> T {
        let model = Model::open_with(&self.file, OpTable::<B>::ALL).unwrap();
        f(&mut Session::with_state(&model, &mut self.arena, &mut self.state).unwrap())
    }
}

/// Input `index` of position `position`, in the sequence `seed`.
fn row(seed: usize, index: usize, position: usize) -> Vec<u8> {
    let width = if index == 0 { Q_WIDTH } else { KV_WIDTH };
    let value = |at: usize| (seed * 7919 + index * 104_729 + position * 1_299_709 + at * 15_485_863) as u64;
    (0..width).map(|at| (value(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// Runs the next `rows` positions of a sequence; the output rows.
fn feed<B: Kernels>(
    session: &mut Session<'_, '_, B>,
    seed: usize,
    rows: usize,
    stepwise: bool,
) -> Result<Vec<u8>, RunFault> {
    session.feed(rows as u32)?;
    let position = session.position() as usize;
    for index in 0..3 {
        let bytes: Vec<u8> = (0..rows).flat_map(|at| row(seed, index, position + at)).collect();
        session.input_mut(index).unwrap()[..bytes.len()].copy_from_slice(&bytes);
    }
    if stepwise {
        while session.step()? != Progress::Done {}
    } else {
        session.run()?;
    }
    assert_eq!(session.position() as usize, position + rows);
    Ok(session.output(0).unwrap()[..rows * Q_WIDTH].to_vec())
}

fn snapshot<B: Kernels>(session: &Session<'_, '_, B>) -> Vec<u8> {
    let mut bytes = vec![0; session.snapshot_bytes()];
    assert_eq!(session.snapshot(&mut bytes), Some(bytes.len()));
    assert_eq!(session.snapshot(&mut vec![0; bytes.len() - 1]), None);
    bytes
}

/// Outputs and state after runs of so many rows each.
fn blocks<B: Kernels>(file: &[u8], blocks: &[usize], stepwise: bool) -> (Vec<u8>, Vec<u8>) {
    Memory::new(file).with::<B, _>(|session| {
        let outputs = blocks.iter().flat_map(|&rows| feed(session, 1, rows, stepwise).unwrap()).collect();
        // Without the checksum of the file, which tells runs of different lengths apart, and that of all.
        let state = snapshot(session);
        (outputs, state[8..state.len() - 4].to_vec())
    })
}

#[test]
fn the_bytes_do_not_depend_on_the_blocking() {
    for (wide_exp, interleaved) in [(false, false), (true, true)] {
        let singles = blocks::<Portable>(&model(1, wide_exp, interleaved), &[1; 12], false);
        assert_eq!(singles.0.len(), 12 * Q_WIDTH);
        for sizes in [&[12][..], &[4, 4, 4], &[3, 1, 4, 2, 2], &[1, 5, 6], &[7, 5], &[1; 12]] {
            let most = *sizes.iter().max().unwrap() as u32;
            for rows in [most, 12] {
                let file = model(rows, wide_exp, interleaved);
                assert_eq!(blocks::<Portable>(&file, sizes, false), singles, "{sizes:?} of {rows}");
                assert_eq!(blocks::<Portable>(&file, sizes, true), singles, "{sizes:?} of {rows}, step by step");
                assert_eq!(blocks::<Native>(&file, sizes, false), singles, "{sizes:?} of {rows}, native");
            }
        }
    }
}

#[test]
fn a_ring_is_a_window_over_all_positions() {
    for (wide_exp, interleaved) in [(false, false), (true, true)] {
        let whole = blocks::<Portable>(&model(1, wide_exp, interleaved), &[1; 12], false).0;
        for window in [1, 3, 5, 11] {
            let ring = windowed(1, wide_exp, interleaved, Some(window));
            let singles = blocks::<Portable>(&ring, &[1; 12], false);
            let seen = window as usize * Q_WIDTH;
            assert_eq!(singles.0[..seen], whole[..seen], "all that there is is in the window of {window}");
            // One key of many may be lost in rounding.
            assert!(window > 5 || singles.0[seen..] != whole[seen..], "a window of {window}");
            assert_eq!(blocks::<Portable>(&ring, &[1; 12], true), singles, "a ring of {window}, step by step");
            assert_eq!(blocks::<Native>(&ring, &[1; 12], false), singles, "a ring of {window}, native");
            // Runs of several rows have all positions in the state, and a mask.
            for (rows, sizes) in [(12, &[12][..]), (4, &[4, 4, 4]), (5, &[3, 1, 4, 2, 2])] {
                let file = windowed(rows, wide_exp, interleaved, Some(window));
                assert_eq!(blocks::<Portable>(&file, sizes, false).0, singles.0, "a window of {window} in {sizes:?}");
                assert_eq!(blocks::<Native>(&file, sizes, true).0, singles.0, "a window of {window} in {sizes:?}");
            }
        }
    }
}

#[test]
fn a_ring_goes_back_as_far_as_it_holds() {
    let file = windowed(1, false, false, Some(4));
    let continued = Memory::new(&file).with::<Portable, _>(|session| {
        let mut rows =
            |from: usize| (from..12).map(|_| feed(session, 1, 1, false).unwrap()).collect::<Vec<_>>().concat();
        rows(0)[7 * Q_WIDTH..].to_vec()
    });
    Memory::new(&file).with::<Native, _>(|session| {
        let go = |session: &mut Session<'_, '_, Native>, seed: usize, n: usize| {
            (0..n).map(|_| feed(session, seed, 1, false).unwrap()).collect::<Vec<_>>().concat()
        };
        // Nothing is lost as long as all positions are held.
        go(session, 2, 4);
        assert!(session.truncate(0));
        go(session, 1, 4);
        assert!(session.truncate(2));
        go(session, 1, 5);
        let saved = snapshot(session);
        assert!(!session.truncate(4) && session.position() == 7, "the rows of positions 0 to 2 are gone");
        // One row tried and taken back, and one that is cancelled: they wrote where the window has passed.
        go(session, 2, 1);
        assert!(session.truncate(7));
        session.feed(1).unwrap();
        session.input_mut(1).unwrap().fill(99);
        assert!(matches!(session.step(), Ok(Progress::Running { .. })));
        session.cancel();
        assert_eq!(go(session, 1, 5), continued);
        session.restore(&saved).unwrap();
        assert_eq!(session.position(), 7);
        assert_eq!(go(session, 1, 5), continued);
    });
}

#[test]
fn later_rows_see_earlier_ones_and_not_the_other_way() {
    let file = model(4, false, false);
    let run = |seeds: [usize; 3]| {
        Memory::new(&file).with::<Portable, _>(|session| seeds.map(|seed| feed(session, seed, 4, false).unwrap()))
    };
    let [first, second, third] = run([1, 1, 1]);
    let [a, b, c] = run([1, 2, 1]);
    assert_eq!(first, a);
    assert!(second != b && third != c);
}

#[test]
fn what_was_tried_and_taken_back_leaves_no_trace() {
    let file = model(4, false, false);
    Memory::new(&file).with::<Portable, _>(|session| {
        feed(session, 1, 4, false).unwrap();
        let before = snapshot(session);
        // A run under way, cancelled after its keys were written.
        session.feed(3).unwrap();
        session.input_mut(1).unwrap().fill(99);
        for _ in 0..4 {
            assert!(matches!(session.step(), Ok(Progress::Running { .. })));
        }
        assert_eq!((session.position(), snapshot(session)), (4, before.clone()));
        session.cancel();
        // A run that finished, taken back.
        feed(session, 2, 3, false).unwrap();
        assert!(session.truncate(4) && !session.truncate(5));
        assert_eq!(snapshot(session), before);
        let rest = feed(session, 1, 4, false).unwrap();
        session.reset();
        assert_eq!(session.position(), 0);
        feed(session, 1, 4, false).unwrap();
        assert_eq!(feed(session, 1, 4, false).unwrap(), rest);
    });
}

#[test]
fn a_restored_session_goes_on_as_if_nothing_had_happened() {
    let file = model(4, true, true);
    let (saved, rest) = Memory::new(&file).with::<Portable, _>(|session| {
        feed(session, 1, 3, false).unwrap();
        (snapshot(session), feed(session, 1, 4, false).unwrap())
    });
    Memory::new(&file).with::<Native, _>(|session| {
        feed(session, 2, 4, false).unwrap();
        let present = snapshot(session);
        let mut damaged = saved.clone();
        damaged[40] ^= 1;
        assert_eq!(session.restore(&damaged), Err(SnapshotError::Damaged));
        assert_eq!(session.restore(&saved[..saved.len() - 1]), Err(SnapshotError::NotASnapshot));
        assert_eq!(session.restore(b"not one"), Err(SnapshotError::NotASnapshot));
        let mut later = saved.clone();
        later[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(session.restore(&later), Err(SnapshotError::Damaged));
        assert_eq!((session.position(), snapshot(session)), (4, present));
        assert_eq!(session.restore(&saved), Ok(()));
        assert_eq!(session.position(), 3);
        assert_eq!(feed(session, 1, 4, false).unwrap(), rest);
    });
    let other = Memory::new(&model(3, true, true)).with::<Portable, _>(|session| session.restore(&saved));
    assert_eq!(other, Err(SnapshotError::OtherModel));
}

#[test]
fn a_full_state_and_too_many_rows_are_errors() {
    let file = model(5, false, false);
    Memory::new(&file).with::<Portable, _>(|session| {
        assert_eq!(session.feed(0), Err(RunFault::Rows { limit: 5 }));
        assert_eq!(session.feed(6), Err(RunFault::Rows { limit: 5 }));
        feed(session, 1, 5, false).unwrap();
        feed(session, 1, 5, false).unwrap();
        let before = snapshot(session);
        assert_eq!(session.feed(3), Err(RunFault::Full { capacity: CAPACITY }));
        assert_eq!(session.run(), Err(RunFault::Full { capacity: CAPACITY }), "five rows are still fed");
        assert_eq!(session.step(), Err(RunFault::Full { capacity: CAPACITY }));
        assert_eq!((session.position(), snapshot(session)), (10, before));
        feed(session, 1, 2, false).unwrap();
        assert_eq!(session.feed(1), Err(RunFault::Full { capacity: CAPACITY }));
    });
}

#[test]
fn state_must_be_given_and_large_enough() {
    let file = model(2, false, false);
    let mut bytes = Box::new(Aligned([0u8; 16 * 1024]));
    bytes.0[..file.len()].copy_from_slice(&file);
    let model = Model::open(&bytes.0[..file.len()]).unwrap();
    let (mut arena, mut state) = (Aligned([0u8; 16 * 1024]), Aligned([0u8; 1024]));
    let needed = model.state_bytes();
    assert_eq!(needed, 2 * (CAPACITY as usize * KV_WIDTH).next_multiple_of(16));
    let error = Session::new(&model, &mut arena.0).err();
    assert_eq!(error, Some(ArenaError::StateTooSmall { needed, given: 0 }));
    let error = Session::with_state(&model, &mut arena.0, &mut state.0[..needed - 1]).err();
    assert_eq!(error, Some(ArenaError::StateTooSmall { needed, given: needed - 1 }));
    let error = Session::with_state(&model, &mut arena.0, &mut state.0[1..]).err();
    assert_eq!(error, Some(ArenaError::Misaligned));
    assert!(Session::with_state(&model, &mut arena.0, &mut state.0).is_ok());
}
