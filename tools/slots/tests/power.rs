//! Power that fails: at every write and every erase of an update, in every way that each may be cut off, twice in a row.

use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use shiftformer_slots::{Incoming, SlotError, Slots};
use shiftformer_transport::{Decoder, Moved};

const BLOCK: usize = 512;
const WORD: usize = 4;
const SLOT: usize = 4 * BLOCK;
const REGION: std::ops::Range<u32> = BLOCK as u32..(BLOCK + 2 * SLOT) as u32;

/// How the operation during which power fails is left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// As if it had not begun.
    Before,
    /// The first part is done.
    Half,
    /// Some bits of what it was at have changed, others not.
    Bits,
    /// It was complete.
    After,
}

const CUTS: [Cut; 4] = [Cut::Before, Cut::Half, Cut::Bits, Cut::After];

#[derive(Debug, PartialEq)]
enum Fault {
    /// No power.
    Power,
    /// What a flash cannot do: bits that are set again by a write, odd addresses.
    Misuse(&'static str),
}

impl NorFlashError for Fault {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

#[derive(Clone)]
struct Flash {
    bytes: Vec<u8>,
    /// Words written and blocks erased until power fails; `None`: it does not.
    left: Option<usize>,
    cut: Cut,
    done: usize,
    random: u32,
}

impl Flash {
    fn new() -> Self {
        Self { bytes: vec![0x5a; BLOCK + 2 * SLOT + BLOCK], left: None, cut: Cut::Before, done: 0, random: 1 }
    }

    fn noise(&mut self) -> u8 {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.random >> 24) as u8
    }

    /// Counts an operation; how it is cut off if it is the last.
    fn operate(&mut self) -> Result<Option<Cut>, Fault> {
        match &mut self.left {
            Some(0) => return Err(Fault::Power),
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    return Ok(Some(self.cut));
                }
            }
            None => {}
        }
        self.done += 1;
        Ok(None)
    }

    /// Makes `range` into `new`, or what is left of that when power fails.
    fn change(&mut self, range: std::ops::Range<usize>, new: &[u8]) -> Result<(), Fault> {
        let cut = self.operate()?;
        for (index, at) in range.clone().enumerate() {
            let (old, new) = (self.bytes[at], new[index]);
            let noise = self.noise();
            self.bytes[at] = match cut {
                None | Some(Cut::After) => new,
                Some(Cut::Before) => old,
                Some(Cut::Half) => {
                    if index < range.len() / 2 {
                        new
                    } else {
                        old
                    }
                }
                Some(Cut::Bits) => old & noise | new & !noise,
            };
        }
        if cut.is_some() { Err(Fault::Power) } else { Ok(()) }
    }
}

impl ErrorType for Flash {
    type Error = Fault;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        let from = self.bytes.get(offset as usize..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(from.ok_or(Fault::Misuse("read beyond the end"))?);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = BLOCK;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Fault> {
        if !(from as usize).is_multiple_of(BLOCK) || !(to as usize).is_multiple_of(BLOCK) {
            return Err(Fault::Misuse("half a block erased"));
        }
        (from as usize..to as usize).step_by(BLOCK).try_for_each(|at| self.change(at..at + BLOCK, &[0xff; BLOCK]))
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Fault> {
        if !(offset as usize).is_multiple_of(WORD) || !bytes.len().is_multiple_of(WORD) {
            return Err(Fault::Misuse("half a word written"));
        }
        for (index, word) in bytes.chunks_exact(WORD).enumerate() {
            let at = offset as usize + index * WORD;
            if self.bytes[at..at + WORD].iter().any(|&byte| byte != 0xff) {
                return Err(Fault::Misuse("a word written twice"));
            }
            self.change(at..at + WORD, word)?;
        }
        Ok(())
    }
}

/// A model of this version: any bytes, since the proof is the caller's.
fn model(version: u32) -> Vec<u8> {
    let len = 700 + 13 * version as usize;
    (0..len).map(|i| (i as u32).wrapping_mul(version + 7).wrapping_mul(2_654_435_761) as u8).collect()
}

fn key() -> ed25519_compact::KeyPair {
    ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new([7; 32]))
}

fn incoming(version: u32) -> (Vec<u8>, Incoming) {
    let model = model(version);
    let message = [&model[..], &version.to_le_bytes()].concat();
    let signature = *key().sk.sign(message, None);
    (model.clone(), Incoming { bytes: model.len() as u32, version, signature })
}

fn slots(flash: Flash, signed: bool) -> Slots<Flash> {
    let slots = Slots::new(flash, REGION).unwrap();
    if signed { slots.signed_by(*key().pk) } else { slots }
}

/// Writes `version`; the flash afterwards, and what came of it.
fn install(flash: Flash, version: u32, signed: bool) -> (Flash, Result<(), SlotError<Fault>>) {
    let (model, incoming) = incoming(version);
    let mut slots = slots(flash, signed);
    let done = slots.update(incoming).and_then(|mut update| {
        model.chunks(100).try_for_each(|chunk| update.write(chunk))?;
        update.finish(|_| true).map(|_| ())
    });
    (slots.into_flash(), done)
}

/// The version that boots, after a look at every byte of it.
fn boots(flash: &Flash, signed: bool) -> Option<u32> {
    let mut powered = flash.clone();
    powered.left = None;
    let mut slots = slots(powered, signed);
    let stored = slots.active().unwrap()?;
    let place = stored.place.start as usize..stored.place.end as usize;
    assert_eq!(flash.bytes[place.clone()], model(stored.version), "the model in use is whole");
    assert!(place.start.is_multiple_of(16));
    Some(stored.version)
}

/// A flash with power for `left` operations, the last of which is cut off as `cut` says.
fn powered(flash: &Flash, left: Option<usize>, cut: Cut, random: u32) -> Flash {
    Flash { left, cut, random, done: 0, ..flash.clone() }
}

#[test]
fn power_that_fails_anywhere_leaves_a_model_that_boots() {
    for signed in [false, true] {
        let (first, done) = install(Flash::new(), 1, signed);
        assert_eq!((done, boots(&first, signed)), (Ok(()), Some(1)));
        // Also over a slot that holds an older model.
        let (second, done) = install(powered(&first, None, Cut::Before, 1), 2, signed);
        assert_eq!((done, boots(&second, signed)), (Ok(()), Some(2)));
        let (whole, _) = install(powered(&second, None, Cut::Before, 1), 3, signed);
        assert!(whole.done > 180, "{} operations", whole.done);
        for left in 1..=whole.done {
            // Signatures take their time: the first, the last and some operations between.
            if signed && left % 23 != 0 && left > 6 && left + 70 < whole.done {
                continue;
            }
            for cut in CUTS {
                let (cut_off, done) = install(powered(&second, Some(left), cut, left as u32), 3, signed);
                assert_eq!(done, Err(SlotError::Flash(Fault::Power)));
                let version = boots(&cut_off, signed).expect("a model boots");
                assert!(version == 2 || version == 3 && left + 64 >= whole.done, "{version} after {left} {cut:?}");
                // The next attempt goes through, whatever the last one has left.
                let (again, done) = install(powered(&cut_off, None, cut, 5), 4, signed);
                assert_eq!((done, boots(&again, signed)), (Ok(()), Some(4)), "{left} {cut:?}");
            }
        }
    }
}

/// A change to the model in use, decoded as it arrives into the slot beside it, with power that fails at any point.
#[test]
fn a_change_arrives_in_transport_form() {
    let (first, _) = install(Flash::new(), 1, true);
    let (model, incoming) = incoming(2);
    let (old, packed) = (self::model(1), shiftformer_transport::pack(&model, Some(&self::model(1))).unwrap());
    let receive = |flash: Flash| {
        let (mut decoder, mut out) = (Decoder::new(&old), [0; 64]);
        let mut slots = slots(flash, true);
        let done = slots.update(incoming).and_then(|mut update| {
            for mut piece in packed.chunks(23) {
                while !piece.is_empty() {
                    let moved = decoder.push(piece, &mut out).expect("packed above");
                    update.write(&out[..moved.written])?;
                    piece = &piece[moved.read..];
                }
            }
            // Output that the last piece had no room for.
            while let Ok(Moved { written: written @ 1.., .. }) = decoder.push(&[], &mut out) {
                update.write(&out[..written])?;
            }
            update.finish(|_| decoder.finish().is_ok()).map(|_| ())
        });
        (slots.into_flash(), done)
    };
    let (second, done) = receive(powered(&first, None, Cut::Before, 1));
    assert_eq!((done, boots(&second, true)), (Ok(()), Some(2)));
    for left in 1..second.done {
        for cut in CUTS {
            let (flash, done) = receive(powered(&first, Some(left), cut, left as u32));
            assert_eq!(done, Err(SlotError::Flash(Fault::Power)), "{left} {cut:?}");
            assert!(boots(&flash, true).is_some(), "{left} {cut:?}");
        }
    }
}

#[test]
fn power_that_fails_again_during_the_next_attempt_leaves_a_model_that_boots() {
    let (first, _) = install(Flash::new(), 1, false);
    let (second, _) = install(powered(&first, None, Cut::Before, 1), 2, false);
    let (whole, _) = install(powered(&second, None, Cut::Before, 1), 3, false);
    for left in (1..=whole.done).step_by(7) {
        for cut in CUTS {
            let (once, _) = install(powered(&second, Some(left), cut, 9), 3, false);
            for later in (1..=whole.done).step_by(11) {
                let (twice, done) = install(powered(&once, Some(later), Cut::Bits, later as u32), 4, false);
                assert_eq!(done, Err(SlotError::Flash(Fault::Power)));
                assert!(boots(&twice, false).is_some_and(|version| version >= 2), "{left} {cut:?} {later}");
            }
        }
    }
}

#[test]
fn what_is_older_or_strange_is_refused_and_the_model_in_use_stays() {
    let (flash, _) = install(Flash::new(), 5, true);
    let (flash, done) = install(flash, 4, true);
    assert_eq!(done, Err(SlotError::Rollback { version: 4, minimum: 5 }));
    let fresh = Slots::new(flash.clone(), REGION).unwrap().not_below(6);
    assert_eq!({ fresh }.active().unwrap(), None, "a firmware that needs version 6 runs no other");

    let (model, mut forged) = incoming(6);
    forged.signature[3] ^= 1;
    let mut slots = slots(flash.clone(), true);
    let mut update = slots.update(forged).unwrap();
    update.write(&model).unwrap();
    assert_eq!(update.finish(|_| true), Err(SlotError::Signature));
    let (model, good) = incoming(6);
    let mut update = slots.update(Incoming { version: 7, ..good }).unwrap();
    update.write(&model).unwrap();
    assert_eq!(update.finish(|_| true), Err(SlotError::Signature), "the version is signed too");
    let mut update = slots.update(good).unwrap();
    update.write(&model).unwrap();
    assert_eq!(update.finish(|_| false), Err(SlotError::Proof));
    let mut update = slots.update(good).unwrap();
    update.write(&model[1..]).unwrap();
    assert_eq!(update.write(&model), Err(SlotError::Length));
    assert_eq!(update.finish(|_| true), Err(SlotError::Length));
    let room = slots.room();
    let large = Incoming { bytes: room + 1, ..good };
    assert_eq!(slots.update(large).err(), Some(SlotError::TooLarge { bytes: room + 1, room }));
    assert_eq!(boots(&slots.into_flash(), true), Some(5));
}

#[test]
fn a_bit_that_changes_in_the_model_in_use_lets_the_other_boot() {
    let (flash, _) = install(Flash::new(), 1, false);
    let (flash, _) = install(flash, 2, false);
    let stored = slots(flash.clone(), false).active().unwrap().unwrap();
    for at in (stored.place.start as usize - BLOCK..stored.place.start as usize - BLOCK + 92)
        .chain(stored.place.start as usize..stored.place.end as usize)
    {
        let mut damaged = flash.clone();
        damaged.bytes[at] ^= 1 << (at % 8);
        assert_eq!(boots(&damaged, false), Some(1), "byte {at}");
    }
}

#[test]
fn regions_that_are_no_slots_are_refused() {
    let end = Flash::new().capacity() as u32;
    for region in [0..BLOCK as u32, 8..end, 0..end + 2 * BLOCK as u32, 0..3 * BLOCK as u32, end..0] {
        assert_eq!(Slots::new(Flash::new(), region).err(), Some(SlotError::Region));
    }
}
