use crate::testing::{Fill, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::add::Add;
use shiftformer::ops::{Dims, Extent, Op};
use shiftformer::tensor::Dtype;

prop_compose! {
    /// Dimensions, and for each whether the second operand repeats along it.
    pub fn any_dims()(dims in prop::array::uniform6(1u32..4), repeats in prop::array::uniform6(any::<bool>()))
        -> (Dims, [bool; 6]) {
        (dims, repeats)
    }
}

/// A contiguous view of what is left of `dims` without the repeated ones, and its length.
pub fn broadcast(dims: Dims, repeats: [bool; 6]) -> (Extent, u32) {
    let mut view = Extent::contiguous(dims);
    let mut next = 1;
    for axis in (0..6).rev() {
        view.strides[axis] = if repeats[axis] { 0 } else { next };
        next *= if repeats[axis] { 1 } else { dims[axis] as i32 };
    }
    (view, next as u32)
}

/// Element types of the inputs.
pub fn any_input() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::I8, Dtype::U8, Dtype::I16])
}

/// Element types of the outputs.
pub fn any_output() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::I8, Dtype::I16])
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn addition_equals_portable(
        (dims, repeats) in any_dims(), a_type in any_input(), b_type in any_input(), out in any_output(),
        ma in -8000i32..8000, mb in -8000i32..8000, bias in any::<i32>(), shift in 0u32..=30, x in any_fill(),
        constant in any::<bool>(),
    ) {
        let mut test = TestModel::default();
        let len = dims.iter().product::<u32>();
        let (b_view, b_len) = broadcast(dims, repeats);
        let a = test.input(a_type, &[len]);
        let b_bytes = |x| fill(x, b_type, b_len as usize);
        let b = if constant { test.constant(b_type, &[b_len], &b_bytes(x)) } else { test.input(b_type, &[b_len]) };
        let y = test.output(out, &dims);
        // A flipped first operand: negative strides.
        let mut a_view = Extent::contiguous(dims);
        a_view.offset = len - 1;
        a_view.strides = a_view.strides.map(|s| -s);
        let op = Add { dims, a: a_view, b: b_view, ma, mb, bias: bias >> 2, shift };
        test.op(Op::Add(op), &[Some(a), Some(b)], y);
        let sample = |x| {
            let mut sample = vec![fill(x, a_type, len as usize)];
            if !constant {
                sample.push(b_bytes(x));
            }
            sample
        };
        assert_equal(&test, &[sample(x), sample(Fill::Alternating), sample(Fill::Random(1))]);
    }
}

#[test]
fn residual_addition_in_place_saturates() {
    let dims = [1, 1, 1, 1, 5, 7];
    for shift in [0, 30] {
        let mut test = TestModel::default();
        let a = test.input(Dtype::I16, &[35]);
        let b = test.input(Dtype::I16, &[35]);
        let y = test.alias(a, Dtype::I16, &[35]);
        let view = Extent::contiguous(dims);
        test.op(
            Op::Add(Add { dims, a: view, b: view, ma: 32767, mb: 32767, bias: 1 << 15, shift }),
            &[Some(a), Some(b)],
            y,
        );
        let sample = |x, y| vec![fill(x, Dtype::I16, 35), fill(y, Dtype::I16, 35)];
        assert_equal(&test, &[sample(Fill::Min, Fill::Min), sample(Fill::Max, Fill::Alternating)]);
    }
}

#[test]
fn sums_of_tensors_as_they_lie_are_exact() {
    let dims = [1, 1, 1, 1, 5, 12];
    let view = Extent::contiguous(dims);
    let types = [Dtype::I8, Dtype::I16];
    for (a_type, b_type, out) in
        types.iter().flat_map(|&a| types.iter().map(move |&b| (a, b, b))).chain([(Dtype::I16, Dtype::I16, Dtype::I8)])
    {
        for constant in [false, true] {
            let mut test = TestModel::default();
            let a = test.input(a_type, &dims);
            let bytes = fill(Fill::Random(3), b_type, 60);
            let b = if constant { test.constant(b_type, &dims, &bytes) } else { test.input(b_type, &dims) };
            let y = test.output(out, &dims);
            let op = Add { dims, a: view, b: view, ma: 7000, mb: -6000, bias: 1 << 12, shift: 13 };
            test.op(Op::Add(op), &[Some(a), Some(b)], y);
            let sample = |x| {
                let mut sample = vec![fill(x, a_type, 60)];
                if !constant {
                    sample.push(bytes.clone());
                }
                sample
            };
            assert_equal(&test, &[sample(Fill::Min), sample(Fill::Max), sample(Fill::Random(1))]);
        }
    }
}
