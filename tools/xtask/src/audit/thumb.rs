//! As much of the Thumb encoding as the audit needs: lengths, branches.

use super::elf::Code;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it lies.
    pub address: u32,
    /// 32-bit instructions have their first half-word on top; 16-bit ones are below `2^16`.
    pub bits: u32,
}

/// The instructions of a stretch of code.
pub fn instructions(code: &Code) -> impl Iterator<Item = Instruction> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = u32::from(*code.halves.get(at)?);
        let address = code.address + 2 * at as u32;
        // Arm v7-M reference manual, A5.1: these prefixes begin a 32-bit instruction.
        let wide = first >> 11 >= 0b11101;
        let second = code.halves.get(at + 1).copied().filter(|_| wide);
        at += 1 + usize::from(second.is_some());
        Some(Instruction { address, bits: second.map_or(first, |second| first << 16 | u32::from(second)) })
    })
}

impl Instruction {
    /// Target of a direct branch or call.
    pub fn branch_target(self) -> Option<u32> {
        let offset = match self.bits {
            // BL, B.W (encodings T1 and T4).
            b if b & 0xf800_9000 == 0xf000_9000 => {
                let sign = b >> 26 & 1;
                let (i1, i2) = (1 ^ (b >> 13 & 1) ^ sign, 1 ^ (b >> 11 & 1) ^ sign);
                let bits = sign << 24 | i1 << 23 | i2 << 22 | (b >> 16 & 0x3ff) << 12 | (b & 0x7ff) << 1;
                extend(bits, 25)
            }
            // B<c>.W (T3); condition codes 14 and 15 are other instructions.
            b if b & 0xf800_d000 == 0xf000_8000 && b >> 23 & 7 != 7 => {
                let bits = (b >> 26 & 1) << 20 | (b >> 11 & 1) << 19 | (b >> 13 & 1) << 18;
                extend(bits | (b >> 16 & 0x3f) << 12 | (b & 0x7ff) << 1, 21)
            }
            // B (T2), B<c> (T1).
            b if b >> 11 == 0b11100 => extend((b & 0x7ff) << 1, 12),
            b if b >> 12 == 0b1101 && b >> 9 & 7 != 7 => extend((b & 0xff) << 1, 9),
            _ => return None,
        };
        Some(self.address.wrapping_add(4).wrapping_add_signed(offset))
    }
}

impl Instruction {
    /// Register and constant of a MOVW (T3; `false`) or MOVT (T1; `true`).
    pub fn constant(self) -> Option<(u32, u16, bool)> {
        let b = self.bits;
        let top = match b & 0xfbf0_8000 {
            0xf240_0000 => false,
            0xf2c0_0000 => true,
            _ => return None,
        };
        let value = (b >> 16 & 15) << 12 | (b >> 26 & 1) << 11 | (b >> 12 & 7) << 8 | b & 0xff;
        Some((b >> 8 & 15, value as u16, top))
    }
}

/// Sign extension of a number of `bits` bits.
fn extend(value: u32, bits: u32) -> i32 {
    (value << (32 - bits)) as i32 >> (32 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: u32, bits: u32) -> Option<u32> {
        Instruction { address, bits }.branch_target()
    }

    #[test]
    fn branches_have_the_targets_the_assembler_meant() {
        // From llvm-objdump of a linked program.
        assert_eq!(target(0xc936, 0xf000_f871), Some(0xca1c));
        assert_eq!(target(0xc91e, 0xf001_ff40), Some(0xe7a2));
        // b .  and  bne .-4
        assert_eq!(target(0x100, 0xe7fe), Some(0x100));
        assert_eq!(target(0x100, 0xd1fc), Some(0xfc));
        // bl .-4
        assert_eq!(target(0x100, 0xf7ff_fffc), Some(0xfc));
        // movs r0, #0; ldr.w; svc
        assert_eq!(target(0x100, 0x2000), None);
        assert_eq!(target(0x100, 0xf8d0_0000), None);
        assert_eq!(target(0x100, 0xdf00), None);
    }

    #[test]
    fn constants_come_in_halves() {
        // From llvm-objdump: movw r2, #0xbea4; movt r1, #0x2666; movw lr, #0xfff0
        let constant = |bits| Instruction { address: 0, bits }.constant();
        assert_eq!(constant(0xf64b_62a4), Some((2, 0xbea4, false)));
        assert_eq!(constant(0xf2c2_6166), Some((1, 0x2666, true)));
        assert_eq!(constant(0xf64f_7ef0), Some((14, 0xfff0, false)));
        assert_eq!(constant(0xf000_f871), None);
    }

    #[test]
    fn lengths_follow_the_prefix() {
        let code = Code { address: 0x10, halves: vec![0x2000, 0xf000, 0xf871, 0xbf00, 0xee00] };
        let all: Vec<Instruction> = instructions(&code).collect();
        let at = |address, bits| Instruction { address, bits };
        assert_eq!(all, [at(0x10, 0x2000), at(0x12, 0xf000_f871), at(0x16, 0xbf00), at(0x18, 0xee00)]);
    }
}
