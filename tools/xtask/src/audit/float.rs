//! Floating-point instructions.

use super::elf::Image;
use super::thumb::instructions as decode;

/// Floating-point instructions of Helium, as (mask, value). Their space is shared with integer ones. The masks were merged
/// by a program from 128 assembled forms of every `.f16` and `.f32` instruction, such that none matches any of 300
/// assembled integer, move and load forms.
const HELIUM: [(u32, u32); 15] = [
    // vcmul
    (0xeff1_0ff0, 0xee30_0e00),
    // vadd, vsub, vfmas with a scalar
    (0xeff0_0ef0, 0xee30_0e40),
    // vfma, vmul with a scalar
    (0xeff1_1fd0, 0xee31_0e40),
    // vcmp, vpt
    (0xefb1_0f71, 0xee31_0f00),
    (0xefb1_0f50, 0xee31_0f40),
    (0xefb1_1f71, 0xee31_1f01),
    // vcvtb, vcvtt, vmaxnma, vminnma
    (0xefff_0f71, 0xee3f_0e01),
    // vmaxnmav, vmaxnmv, vminnmav, vminnmv
    (0xeffd_0f71, 0xeeec_0f00),
    // vfma, vfms
    (0xffc1_1ff1, 0xef00_0c50),
    // vabd, vadd, vmaxnm, vminnm, vmul, vsub
    (0xefc1_1de1, 0xef00_0d40),
    // vmov.f32 of a constant
    (0xeff8_1ff0, 0xef80_0f50),
    // vcvt to and from fixed point
    (0xeff0_1cf1, 0xefb0_0c50),
    // vcadd, vcmla
    (0xfe41_1ff1, 0xfc00_0840),
    // vabs, vneg
    (0xfff3_1f71, 0xffb1_0740),
    // vcvt, vrint
    (0xfff2_1871, 0xffb2_0040),
];

/// VPNOT and VPST: what the space of float comparisons holds where the scalar register would be the stack pointer.
const VPNOT_VPST: (u32, u32) = (0xffb1_1fff, 0xfe31_0f4d);

/// Every floating-point instruction of a program of an Arm core. Programs of others are built for cores without such
/// instructions, which the assembler then refuses.
///
/// Where there is Helium, moves, loads and stores of its registers are none: they have the encodings of the scalar ones.
pub fn instructions(image: &Image, helium: bool) -> Vec<String> {
    let mut findings = Vec::new();
    if !image.thumb {
        return findings;
    }
    for instruction in image.code.iter().flat_map(decode) {
        if is_float(instruction.bits, helium) {
            let function = image.function_at(instruction.address).map_or("?", |function| &function.name);
            let (address, bits) = (instruction.address, instruction.bits);
            findings.push(format!("floating-point instruction {bits:08x} at {address:#x} in {function}"));
        }
    }
    findings
}

fn is_float(bits: u32, helium: bool) -> bool {
    // Arm v8-M reference manual, C2.4: 32-bit encodings of coprocessors.
    let coprocessor_space = bits & 0xec00_0000 == 0xec00_0000;
    let coprocessor = bits >> 8 & 0xf;
    if !coprocessor_space {
        return false;
    }
    if !helium {
        // 9 is half precision.
        return matches!(coprocessor, 9..=11);
    }
    // Data processing of the scalar unit: 1110 1110 or 1111 1110 with bit 4 clear. Bit 4 set is a register move.
    let scalar = matches!(coprocessor, 9..=11) && bits & 0xef00_0010 == 0xee00_0000;
    let vector = HELIUM.iter().any(|(mask, value)| bits & mask == *value);
    scalar || vector && bits & VPNOT_VPST.0 != VPNOT_VPST.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_floats_are_found_on_every_core() {
        // vadd.f32 s0, s1, s2; vmul.f64 d0, d1, d2; vcvt.s32.f32 s0, s0
        for bits in [0xee30_0a81, 0xee21_0b02, 0xeebd_0ac0] {
            assert!(is_float(bits, false) && is_float(bits, true), "{bits:08x}");
        }
        // vpush {d8}, vmov s0, r0: moves, which a core without Helium has no use for either.
        for bits in [0xed2d_8b02, 0xee00_0a10] {
            assert!(is_float(bits, false) && !is_float(bits, true), "{bits:08x}");
        }
    }

    #[test]
    fn integers_are_not_floats() {
        // umull, smmulr, ldrd, mcr p15
        for bits in [0xfba0_0102, 0xfb50_f011, 0xe9d0_0100, 0xee00_0f10] {
            assert!(!is_float(bits, false), "{bits:08x}");
        }
        // vadd.i32 q0, q0, q1; vmladava.s8 r0, q0, q1; vrmulh.s32 q0, q1, q2; vpst; vdup.32 q0, r0
        for bits in [0xef20_0842, 0xeef0_0e23, 0xee23_1e05, 0xfe71_0f4d, 0xeea0_0b10] {
            assert!(!is_float(bits, true), "{bits:08x}");
        }
    }

    #[test]
    fn vector_floats_are_floats() {
        // vadd.f32 q2, q1, q5; vsub.f32 q5, q0, r9; vcvt.f32.s32 q5, q5; vcmp.f32 eq, q0, q7; vfma.f32 q2, q3, q3
        for bits in [0xef02_4d4a, 0xee30_bf49, 0xffbb_a64a, 0xee31_0f0e, 0xef06_4c56] {
            assert!(is_float(bits, true), "{bits:08x}");
        }
    }
}
