//! Models come out of their transport form as they went in, however it arrives; what is damaged never counts.

use proptest::prelude::*;
use shiftformer_transport::{BLOCK, Decoder, HEADER_BYTES, Header, TransportError, pack};

/// A model that a real one resembles: records, weights of a bell curve, text.
fn model(seed: u32, weights: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 24
    };
    let mut bytes: Vec<u8> = (0..200u32).flat_map(|i| (i * 16).to_le_bytes()).collect();
    bytes.extend((0..weights).map(|_| ((random() + random() + random() + random()) / 8) as u8));
    bytes.extend(b"{\"tensors\":[\"blocks.0.attention.query\",\"blocks.0.attention.key\"]}".repeat(9));
    bytes
}

/// The model, by pieces of these lengths in turn through an output of `room` bytes.
fn unpacked(packed: &[u8], base: &[u8], pieces: &[usize], room: usize) -> Result<Vec<u8>, TransportError> {
    let (mut decoder, mut model) = (Decoder::new(base), Vec::new());
    let (mut rest, mut out) = (packed, vec![0; room]);
    for &piece in pieces.iter().cycle() {
        let (mut now, later) = rest.split_at(piece.min(rest.len()));
        loop {
            let moved = decoder.push(now, &mut out)?;
            model.extend_from_slice(&out[..moved.written]);
            now = &now[moved.read..];
            if now.is_empty() && moved.written < room {
                break;
            }
        }
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    decoder.finish()?;
    Ok(model)
}

#[test]
fn a_model_becomes_smaller_and_comes_back() {
    let model = model(1, 40_000);
    let packed = pack(&model, None).unwrap();
    assert!(packed.len() * 100 < model.len() * 86, "{} of {}", packed.len(), model.len());
    assert_eq!(unpacked(&packed, &[], &[packed.len()], model.len()).unwrap(), model);
    let header = Header::decode(&packed).unwrap();
    assert_eq!((header.model_bytes as usize, header.base_bytes), (model.len(), 0));
    // The old model counts for nothing where there is none.
    assert_eq!(unpacked(&packed, b"anything", &[7], 3).unwrap(), model);
}

#[test]
fn the_decoder_has_a_size_that_a_small_device_has_room_for() {
    assert!(size_of::<Decoder<'_>>() < 12 * 1024, "{}", size_of::<Decoder<'_>>());
}

#[test]
fn a_change_is_small() {
    let old = model(1, 40_000);
    let mut new = old.clone();
    // Some weights have moved by one step, and a section has grown before the rest.
    for (at, byte) in new.iter_mut().enumerate().skip(800).take(40_000) {
        *byte = byte.wrapping_add(u8::from(at % 9 == 0)).wrapping_sub(u8::from(at % 23 == 0));
    }
    let whole = pack(&new, None).unwrap();
    let moved = [&new[..800], &[9; 160], &new[800..]].concat();
    for new in [new, moved] {
        let change = pack(&new, Some(&old)).unwrap();
        assert!(change.len() * 5 < whole.len() * 2, "{} of {}", change.len(), whole.len());
        assert_eq!(unpacked(&change, &old, &[64], 256).unwrap(), new);
        let mut other = old.clone();
        other[17] ^= 1;
        assert!(matches!(unpacked(&change, &other, &[64], 256), Err(TransportError::OtherBase { .. })));
        assert!(matches!(unpacked(&change, &old[..99], &[64], 256), Err(TransportError::OtherBase { .. })));
    }
    let same = pack(&old, Some(&old)).unwrap();
    assert!(same.len() < old.len() / 50, "{} of {}", same.len(), old.len());
    assert_eq!(unpacked(&same, &old, &[1], 1).unwrap(), old);
}

#[test]
fn any_lengths_come_back() {
    for bytes in [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
        for fill in [0, 0xff] {
            let model = vec![fill; bytes];
            for base in [None, Some(&[fill; 700][..])] {
                let packed = pack(&model, base).unwrap();
                assert_eq!(unpacked(&packed, base.unwrap_or(&[]), &[5, 1], 10).unwrap(), model, "{bytes} of {fill}");
            }
        }
    }
}

#[test]
fn what_is_cut_or_longer_is_said_so() {
    let model = model(3, 5_000);
    let packed = pack(&model, None).unwrap();
    for end in [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, packed.len() / 2, packed.len() - 1] {
        assert_eq!(unpacked(&packed[..end], &[], &[13], 100), Err(TransportError::Short), "{end}");
    }
    let longer = [&packed[..], b"x"].concat();
    assert_eq!(unpacked(&longer, &[], &[longer.len()], 10_000), Err(TransportError::Long));
    assert_eq!(unpacked(&longer, &[], &[1], 10_000), Err(TransportError::Long));
    assert_eq!(unpacked(&model, &[], &[50], 100), Err(TransportError::NotTransport));
    let mut later = packed.clone();
    later[4] = 9;
    assert_eq!(unpacked(&later, &[], &[50], 100), Err(TransportError::Layout(9)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_pieces_leave_no_trace(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        base in prop::collection::vec(any::<u8>(), 0..2000),
        pieces in prop::collection::vec(1usize..90, 1..6),
        room in 1usize..70,
    ) {
        let packed = pack(&bytes, Some(&base)).unwrap();
        prop_assert_eq!(unpacked(&packed, &base, &pieces, room).unwrap(), bytes);
    }

    #[test]
    fn no_damage_goes_through(at in 0usize..100_000, bit in 0u32..8, seed in 0u32..4, change in any::<bool>()) {
        let (old, new) = (model(seed, 3_000), model(seed + 1, 3_000));
        let mut packed = pack(&new, change.then_some(&old)).unwrap();
        let at = at % packed.len();
        packed[at] ^= 1 << bit;
        prop_assert!(unpacked(&packed, &old, &[31], 77).is_err(), "byte {at}");
    }

    #[test]
    fn any_bytes_are_survived(code in prop::collection::vec(any::<u8>(), 0..600), model_bytes in 0u32..5000) {
        // A header that is sound before code that is not.
        let mut packed = pack(&[1; 100], Some(&[2; 100])).unwrap();
        packed.truncate(HEADER_BYTES);
        packed[8..12].copy_from_slice(&model_bytes.to_le_bytes());
        packed[24..28].copy_from_slice(&(code.len() as u32).to_le_bytes());
        let crc = shiftformer::format::CRC.checksum(&packed[..28]);
        packed[28..32].copy_from_slice(&crc.to_le_bytes());
        packed.extend(code);
        let _ = unpacked(&packed, &[2; 100], &[17], 40);
    }
}
