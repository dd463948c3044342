//! Indexing: gather, scatter and what is computed of constants only.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, axis_index, invalid, one, unsupported};
use crate::graph::{Binary, Data, DataType, Op, Reduce, TensorId, contiguous_strides};

/// `index`, which may count from the end, below `size`.
fn position(index: i64, size: usize) -> OpResult<usize> {
    let positive = if index < 0 { index.saturating_add(size as i64) } else { index };
    match usize::try_from(positive) {
        Ok(positive) if positive < size => Ok(positive),
        _ => invalid(format!("index {index} is outside a dimension of {size}")),
    }
}

pub fn gather(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let axis = axis_index(call.int_or("axis", 0)?, builder.rank(x))?;
    one(take(builder, x, indices, axis)?)
}

/// `x` with dimension `axis` replaced by the dimensions of `indices`. Constant indices at equal distances give a slice.
pub fn take(builder: &mut Builder, x: TensorId, indices: TensorId, axis: usize) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    let mut out = shape[..axis].to_vec();
    out.extend(builder.graph.shape(indices));
    out.extend(&shape[axis + 1..]);
    let Some(Data::Int(values)) = builder.graph.constant(indices) else {
        if builder.dtype(indices) != DataType::Int {
            return invalid("indices must be integers");
        }
        return take_computed(builder, x, indices, axis, out);
    };
    let places = values.iter().map(|&i| position(i, shape[axis])).collect::<OpResult<Vec<_>>>()?;
    if let Some((start, step)) = progression(&places).filter(|_| !builder.is_constant(x)) {
        let (mut starts, mut steps, mut sliced) = (vec![0; shape.len()], vec![1; shape.len()], shape.clone());
        (starts[axis], steps[axis], sliced[axis]) = (start, step, places.len());
        let part = builder.slice(x, starts, steps, sliced)?;
        return builder.reshape(part, &out);
    }
    let indices_shape = builder.shape(indices);
    let indices = builder.constant(&indices_shape, Data::Int(places.into_iter().map(|i| i as i64).collect()))?;
    builder.emit(Op::Gather { axis }, &[x, indices], out)
}

/// Rows of `x` by computed indices: the integer form picks them along the first dimension.
fn take_computed(
    builder: &mut Builder,
    x: TensorId,
    indices: TensorId,
    axis: usize,
    out: Vec<usize>,
) -> OpResult<TensorId> {
    if axis == 0 {
        return builder.emit(Op::Gather { axis }, &[x, indices], out);
    }
    let (rank, picked) = (builder.rank(x), builder.rank(indices));
    let first: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|&d| d != axis)).collect();
    let turned = builder.transpose(x, &first)?;
    let mut shape = builder.shape(indices);
    shape.extend(&builder.graph.shape(turned)[1..]);
    let rows = builder.emit(Op::Gather { axis: 0 }, &[turned, indices], shape)?;
    // The indices stood before all other dimensions.
    let back: Vec<usize> = (0..out.len())
        .map(|d| {
            if d < axis {
                d + picked
            } else if d < axis + picked {
                d - axis
            } else {
                d
            }
        })
        .collect();
    builder.transpose(rows, &back)
}

/// First element and difference of an arithmetic progression.
fn progression(places: &[usize]) -> Option<(usize, isize)> {
    let start = *places.first()?;
    let step = if places.len() > 1 { places[1] as isize - start as isize } else { 1 };
    let even = step != 0 && places.windows(2).all(|pair| pair[1] as isize - pair[0] as isize == step);
    even.then_some((start, step))
}

/// Element `places[i]` of `x` in row-major order, in the shape `out`.
fn take_elements(builder: &mut Builder, x: TensorId, places: Vec<i64>, out: &[usize]) -> OpResult<TensorId> {
    let count = builder.graph.shape(x).iter().product();
    let flat = builder.reshape(x, &[count])?;
    let indices = builder.constant(out, Data::Int(places))?;
    builder.emit(Op::Gather { axis: 0 }, &[flat, indices], out.to_vec())
}

/// Each index tuple of `shape` in row-major order.
fn for_each_index(shape: &[usize], mut visit: impl FnMut(&[usize]) -> OpResult<()>) -> OpResult<()> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut index = vec![0; shape.len()];
    loop {
        visit(&index)?;
        let Some(d) = (0..shape.len()).rev().find(|&d| index[d] + 1 < shape[d]) else { return Ok(()) };
        index[d] += 1;
        index[d + 1..].fill(0);
    }
}

/// Where each element of `indices` points in a tensor of `shape`, for GatherElements and ScatterElements.
fn element_places(indices: &[i64], indices_shape: &[usize], shape: &[usize], axis: usize) -> OpResult<Vec<usize>> {
    let fits =
        indices_shape.len() == shape.len() && (0..shape.len()).all(|d| d == axis || indices_shape[d] <= shape[d]);
    if !fits {
        return invalid(format!("indices of shape {indices_shape:?} do not fit a tensor of shape {shape:?}"));
    }
    let strides = contiguous_strides(shape);
    let mut places = Vec::with_capacity(indices.len());
    for_each_index(indices_shape, |index| {
        let along = position(indices[places.len()], shape[axis])?;
        places.push((0..shape.len()).map(|d| strides[d] * if d == axis { along } else { index[d] }).sum());
        Ok(())
    })?;
    Ok(places)
}

/// Where each tuple of `indices [.., depth]` points in a tensor of `shape` behind `skip` leading batch dimensions: the
/// first element of a run of the remaining dimensions.
fn tuple_places(indices: &[i64], depth: usize, shape: &[usize], skip: usize, per_batch: usize) -> OpResult<Vec<usize>> {
    if depth == 0 || skip + depth > shape.len() {
        return invalid(format!("index tuples of {depth} do not fit a tensor of shape {shape:?}"));
    }
    let strides = contiguous_strides(shape);
    let batch_stride: usize = shape[skip..].iter().product();
    let tuples = indices.chunks_exact(depth).enumerate();
    tuples
        .map(|(i, tuple)| {
            let mut place = i / per_batch.max(1) * batch_stride;
            for (d, &index) in tuple.iter().enumerate() {
                place += position(index, shape[skip + d])? * strides[skip + d];
            }
            Ok(place)
        })
        .collect()
}

const CONSTANT_INDICES: &str = "the indices of this operator (Gather takes computed ones)";

pub fn gather_elements(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let axis = axis_index(call.int_or("axis", 0)?, builder.rank(x))?;
    let values = builder.ints(indices, CONSTANT_INDICES)?;
    let out = builder.shape(indices);
    builder.charge(values.len())?;
    let places = element_places(&values, &out, builder.graph.shape(x), axis)?;
    one(take_elements(builder, x, places.into_iter().map(|p| p as i64).collect(), &out)?)
}

pub fn gather_nd(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let skip = usize::try_from(call.int_or("batch_dims", 0)?).unwrap_or(usize::MAX);
    let values = builder.ints(indices, CONSTANT_INDICES)?;
    let (shape, indices_shape) = (builder.shape(x), builder.shape(indices));
    let Some((&depth, tuples)) = indices_shape.split_last() else { return invalid("indices must have a dimension") };
    if skip > tuples.len() || shape.get(..skip) != tuples.get(..skip) || skip.saturating_add(depth) > shape.len() {
        return invalid(format!("indices of shape {indices_shape:?} do not fit a tensor of shape {shape:?}"));
    }
    let starts = tuple_places(&values, depth, &shape, skip, tuples[skip..].iter().product())?;
    let rest = &shape[skip + depth..];
    let run: usize = rest.iter().product();
    let mut out = tuples.to_vec();
    out.extend(rest);
    let count = builder.checked_count(&out)?;
    builder.charge(count)?;
    let places = starts.iter().flat_map(|&start| (start..start + run).map(|p| p as i64)).collect();
    one(take_elements(builder, x, places, &out)?)
}

/// `x` with `updates[i]` at `places[i]`; elements of both are picked from one row.
fn put_elements(
    builder: &mut Builder,
    x: TensorId,
    updates: TensorId,
    places: impl Iterator<Item = usize>,
) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    let count: usize = shape.iter().product();
    let updated: usize = builder.graph.shape(updates).iter().product();
    builder.charge(count + updated)?;
    let mut source: Vec<i64> = (0..count as i64).collect();
    for (i, place) in places.enumerate() {
        source[place] = (count + i) as i64;
    }
    let flat = builder.reshape(x, &[count])?;
    let flat_updates = builder.reshape(updates, &[updated])?;
    let both = builder.concat(&[flat, flat_updates], 0)?;
    take_elements(builder, both, source, &shape)
}

/// How updates are joined with what is there; `None` where they take its place.
fn reduction(call: &Call) -> OpResult<Option<Binary>> {
    Ok(Some(match call.text_or("reduction", "none")?.as_str() {
        "none" => return Ok(None),
        "add" => Binary::Add,
        "mul" => Binary::Mul,
        "max" => Binary::Max,
        "min" => Binary::Min,
        other => return invalid(format!("unknown reduction `{other}`")),
    }))
}

/// `x` joined with `updates[i]` at `places[i]`. Several updates of one place follow each other.
fn join_elements(
    builder: &mut Builder,
    x: TensorId,
    updates: TensorId,
    places: Vec<usize>,
    kind: Binary,
) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    let count: usize = shape.iter().product();
    let updated = places.len();
    let mut rounds: Vec<Vec<i64>> = Vec::new();
    let mut times = vec![0; count];
    for (i, &place) in places.iter().enumerate() {
        if times[place] == rounds.len() {
            builder.charge(count)?;
            rounds.push(vec![-1; count]);
        }
        rounds[times[place]][place] = i as i64;
        times[place] += 1;
    }
    let mut flat = builder.reshape(x, &[count])?;
    let flat_updates = builder.reshape(updates, &[updated])?;
    for round in rounds {
        // Where there is no update the neutral element is taken, for extremes what is there.
        let neutral = match (kind, builder.dtype(x)) {
            (Binary::Max | Binary::Min, _) => flat,
            (_, DataType::Int) => builder.constant(&[1], Data::Int(vec![i64::from(kind == Binary::Mul)]))?,
            _ => builder.constant(&[1], Data::Float(vec![if kind == Binary::Mul { 1.0 } else { 0.0 }]))?,
        };
        let own = builder.graph.shape(neutral)[0] > 1 || count == 1;
        let picked = |(place, &i): (usize, &i64)| match i {
            -1 if own => (updated + place) as i64,
            -1 => updated as i64,
            i => i,
        };
        let picked = round.iter().enumerate().map(picked).collect();
        let both = builder.concat(&[flat_updates, neutral], 0)?;
        let values = take_elements(builder, both, picked, &[count])?;
        flat = builder.binary(kind, flat, values)?;
    }
    builder.reshape(flat, &shape)
}

pub fn scatter_elements(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let reduction = reduction(call)?;
    let (x, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let axis = axis_index(call.int_or("axis", 0)?, builder.rank(x))?;
    let values = builder.ints(indices, CONSTANT_INDICES)?;
    let shape = builder.shape(indices);
    if builder.graph.shape(updates) != shape {
        return invalid("indices and updates differ in shape");
    }
    let places = element_places(&values, &shape, builder.graph.shape(x), axis)?;
    one(match reduction {
        Some(kind) => join_elements(builder, x, updates, places, kind)?,
        None => put_elements(builder, x, updates, places.into_iter())?,
    })
}

pub fn scatter_nd(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let reduction = reduction(call)?;
    let (x, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let values = builder.ints(indices, CONSTANT_INDICES)?;
    let (shape, indices_shape) = (builder.shape(x), builder.shape(indices));
    let Some((&depth, tuples)) = indices_shape.split_last() else { return invalid("indices must have a dimension") };
    let starts = tuple_places(&values, depth, &shape, 0, usize::MAX)?;
    let mut expected = tuples.to_vec();
    expected.extend(&shape[depth..]);
    if builder.graph.shape(updates) != expected {
        return invalid(format!("updates must have the shape {expected:?}"));
    }
    let run: usize = shape[depth..].iter().product();
    let places = starts.into_iter().flat_map(move |start| start..start + run);
    one(match reduction {
        Some(kind) => join_elements(builder, x, updates, places.collect(), kind)?,
        None => put_elements(builder, x, updates, places)?,
    })
}

/// The upper or lower triangle of the last two dimensions, zeros elsewhere.
pub fn trilu(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let [.., rows, columns] = shape[..] else { return invalid("the operand must be a matrix") };
    let k = match call.optional(1) {
        Some(id) => builder.ints(id, "the diagonal")?.first().copied().unwrap_or(0),
        None => 0,
    };
    let upper = call.int_or("upper", 1)? != 0;
    builder.charge(rows * columns)?;
    let kept = (0..rows * columns).map(|i| {
        let distance = (i % columns) as i64 - (i / columns) as i64;
        if upper { distance >= k } else { distance <= k }
    });
    let mask = builder.constant(&[rows, columns], Data::Bool(kept.collect()))?;
    let zero = match builder.dtype(x) {
        DataType::Float => Data::Float(vec![0.0]),
        DataType::Int => Data::Int(vec![0]),
        DataType::Bool => Data::Bool(vec![false]),
    };
    let zero = builder.constant(&[], zero)?;
    one(builder.select(mask, x, zero)?)
}

/// The operand's value, which this operator needs.
fn known<'b>(builder: &'b Builder, id: TensorId, instead: &str) -> OpResult<&'b Data> {
    match builder.graph.constant(id) {
        Some(data) => Ok(data),
        None => unsupported(format!("only of constants; use {instead}")),
    }
}

pub fn non_zero(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let values = known(builder, x, "Where with a mask")?.to_f32();
    let shape = builder.shape(x);
    let mut found: Vec<Vec<i64>> = vec![Vec::new(); shape.len()];
    let mut element = 0;
    for_each_index(&shape, |index| {
        if values[element] != 0.0 {
            found.iter_mut().zip(index).for_each(|(row, &i)| row.push(i as i64));
        }
        element += 1;
        Ok(())
    })?;
    let count = found.first().map_or(usize::from(values.first().is_some_and(|&v| v != 0.0)), Vec::len);
    builder.charge(count * shape.len())?;
    one(builder.constant(&[shape.len(), count], Data::Int(found.concat()))?)
}

pub fn one_hot(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (indices, depth, values) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let depth = builder.float_value(depth, "the depth")?;
    if !builder.is_constant(values) || builder.graph.shape(values) != [2] {
        return unsupported("the values must be two constants");
    }
    if builder.graph.constant(indices).is_some_and(|data| data.to_f32().iter().any(|&i| i < -depth || i >= depth)) {
        return unsupported("indices outside the depth; use indices below it");
    }
    let depth = builder.checked_count(&[depth as usize])?;
    let mut shape = builder.shape(indices);
    let axis = axis_index(call.int_or("axis", -1)?, shape.len() + 1)?;
    // Rows of a table, so that computed indices work too; the row then moves to its axis.
    let elements = builder.checked_count(&[depth, depth])?;
    builder.charge(elements)?;
    let table = (0..depth * depth).map(|i| i64::from(i / depth == i % depth)).collect();
    let table = builder.constant(&[depth, depth], Data::Int(table))?;
    let table = builder.emit(Op::Gather { axis: 0 }, &[values, table], vec![depth, depth])?;
    let indices = builder.cast(indices, DataType::Int)?;
    let rows = take(builder, table, indices, 0)?;
    shape.push(depth);
    let mut perm: Vec<usize> = (0..shape.len() - 1).collect();
    perm.insert(axis, shape.len() - 1);
    one(builder.transpose(rows, &perm)?)
}

/// Offset of the first element and distance along `axis` of every line of a tensor.
fn lines(shape: &[usize], axis: usize) -> (Vec<usize>, usize) {
    let stride = contiguous_strides(shape)[axis];
    let block = stride * shape[axis];
    let total: usize = shape.iter().product();
    let starts = (0..total / block.max(1)).flat_map(|b| (0..stride).map(move |i| b * block + i));
    (starts.collect(), stride)
}

pub fn cumulative_sum(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let axis = builder.ints(call.input(1)?, "the axis")?.first().copied().unwrap_or(0);
    let axis = axis_index(axis, shape.len())?;
    let (exclusive, reverse) = (call.int_or("exclusive", 0)? != 0, call.int_or("reverse", 0)? != 0);
    let (starts, stride) = lines(&shape, axis);
    let order = |i: usize| if reverse { shape[axis] - 1 - i } else { i };
    let Some(mut data) = builder.graph.constant(x).cloned() else {
        return one(running_sum(builder, x, axis, exclusive, reverse)?);
    };
    builder.charge(data.len())?;
    macro_rules! accumulate {
        ($values:expr, $zero:expr, $add:expr) => {
            for start in starts {
                let mut sum = $zero;
                for i in 0..shape[axis] {
                    let value = &mut $values[start + order(i) * stride];
                    let next = $add(sum, *value);
                    *value = if exclusive { sum } else { next };
                    sum = next;
                }
            }
        };
    }
    match &mut data {
        Data::Float(values) => accumulate!(values, 0.0f32, |a, b| a + b),
        Data::Int(values) => accumulate!(values, 0i64, i64::wrapping_add),
        Data::Bool(_) => return invalid("does not take booleans"),
    }
    one(builder.constant(&shape, data)?)
}

/// A cumulative sum of computed values: what lies 1, 2, 4, .. before is added, so that whole numbers stay exact.
fn running_sum(
    builder: &mut Builder,
    mut x: TensorId,
    axis: usize,
    exclusive: bool,
    reverse: bool,
) -> OpResult<TensorId> {
    let n = builder.graph.shape(x)[axis];
    if exclusive {
        x = shifted(builder, x, axis, 1.min(n), reverse)?;
    }
    let mut distance = 1;
    while distance < n {
        let before = shifted(builder, x, axis, distance, reverse)?;
        x = builder.binary(Binary::Add, x, before)?;
        distance *= 2;
    }
    Ok(x)
}

/// `x` moved by `distance` towards the end of `axis`, or the start where `reverse`, with zeros in the places left.
fn shifted(builder: &mut Builder, x: TensorId, axis: usize, distance: usize, reverse: bool) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    let left = shape[axis] - distance;
    let kept = builder.narrow(x, axis, if reverse { distance } else { 0 }, left)?;
    let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
    if reverse {
        after[axis] = distance;
    } else {
        before[axis] = distance;
    }
    builder.emit(Op::Pad { before, after, value: 0.0 }, &[kept], shape)
}

/// `0, 1, ..` along `axis` of a tensor of `rank` dimensions.
fn places_along(builder: &mut Builder, n: usize, axis: usize, rank: usize) -> OpResult<TensorId> {
    let mut shape = vec![1; rank];
    shape[axis] = n;
    builder.charge(n)?;
    builder.constant(&shape, Data::Int((0..n as i64).collect()))
}

/// The extreme along `axis`, which stays as 1, by extremes of halves: each is one of the operand's values to the last
/// bit, which a reduction in 8 bits would not give.
fn folded(builder: &mut Builder, kind: Binary, mut x: TensorId, axis: usize) -> OpResult<TensorId> {
    loop {
        let n = builder.graph.shape(x)[axis];
        if n <= 1 {
            return Ok(x);
        }
        // Halves of an odd number share their middle.
        let half = n.div_ceil(2);
        let (first, second) = (builder.narrow(x, axis, 0, half)?, builder.narrow(x, axis, n - half, half)?);
        x = builder.binary(kind, first, second)?;
    }
}

/// Where the extreme along `axis` is: the first or last place whose value equals it. The axis stays as 1.
fn computed_extreme(builder: &mut Builder, x: TensorId, axis: usize, max: bool, last: bool) -> OpResult<TensorId> {
    let shape = builder.shape(x);
    let kind = if max { Binary::Max } else { Binary::Min };
    let extreme = folded(builder, kind, x, axis)?;
    let equal = builder.binary(Binary::Equal, x, extreme)?;
    let places = places_along(builder, shape[axis], axis, shape.len())?;
    let (beyond, pick) = if last { (-1, Binary::Max) } else { (shape[axis] as i64, Binary::Min) };
    let beyond = builder.constant(&[], Data::Int(vec![beyond]))?;
    let candidates = builder.select(equal, places, beyond)?;
    folded(builder, pick, candidates, axis)
}

/// 1 where the first largest element along an axis is, else 0.
pub fn hardmax(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let (rows, axis) = if call.version < 13 {
        let axis = call.int_or("axis", 1)?;
        let axis = if axis == shape.len() as i64 { shape.len() } else { axis_index(axis, shape.len())? };
        (builder.reshape(x, &[shape[..axis].iter().product(), shape[axis..].iter().product()])?, 1)
    } else {
        (x, axis_index(call.int_or("axis", -1)?, shape.len())?)
    };
    let (n, rank) = (builder.graph.shape(rows)[axis], builder.rank(rows));
    let found = computed_extreme(builder, rows, axis, true, false)?;
    let places = places_along(builder, n, axis, rank)?;
    let equal = builder.binary(Binary::Equal, places, found)?;
    let y = builder.cast(equal, builder.dtype(x))?;
    one(builder.reshape(y, &shape)?)
}

/// Most elements among which TopK sorts: each is compared with each.
const MAX_SORTED: usize = 128;

/// The `k` largest or least elements along an axis, in order, and where they are.
///
/// The rank of an element is the number of those before it; the element of rank `r` is the sum over all elements of rank
/// `r`, of which there is one.
pub fn top_k(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let rank = shape.len();
    let axis = axis_index(call.int_or("axis", -1)?, rank)?;
    let k = match call.optional(1) {
        Some(k) => builder.ints(k, "k")?.first().copied().unwrap_or(0),
        None => call.int_or("k", 0)?,
    };
    let (max, n) = (call.int_or("largest", 1)? != 0, shape[axis]);
    call.ignore(&["sorted"]);
    let k = match usize::try_from(k) {
        Ok(k) if 0 < k && k <= n => k,
        _ => return invalid(format!("{k} of {n} elements")),
    };
    if n > MAX_SORTED {
        return unsupported(format!(
            "{k} of {n} elements (the limit is {MAX_SORTED}); take the scores as the output and pick on the host"
        ));
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 1);
    let rows = builder.transpose(x, &perm)?;
    let lead = builder.shape(rows)[..rank - 1].to_vec();
    let with = |last: &[usize]| lead.iter().chain(last).copied().collect::<Vec<usize>>();
    let own = builder.reshape(rows, &with(&[n, 1]))?;
    let other = builder.reshape(rows, &with(&[1, n]))?;
    builder.charge(n * n)?;
    let earlier = builder.constant(&[n, n], Data::Bool((0..n * n).map(|i| i % n < i / n).collect()))?;
    let (beyond, not_below) =
        if max { (Binary::Greater, Binary::GreaterOrEqual) } else { (Binary::Less, Binary::LessOrEqual) };
    let beyond = builder.binary(beyond, other, own)?;
    let tied = builder.binary(not_below, other, own)?;
    let tied = builder.binary(Binary::And, tied, earlier)?;
    let before = builder.binary(Binary::Or, beyond, tied)?;
    let before = builder.cast(before, DataType::Int)?;
    let ranks = builder.reduce(Reduce::Sum, before, vec![rank], true)?;
    let places = places_along(builder, k, rank, rank + 1)?;
    let chosen = builder.binary(Binary::Equal, ranks, places)?;
    let picked = |builder: &mut Builder, values: TensorId| {
        let chosen = builder.cast(chosen, builder.dtype(values))?;
        let parts = builder.binary(Binary::Mul, values, chosen)?;
        let sums = builder.reduce(Reduce::Sum, parts, vec![rank - 1], false)?;
        builder.transpose(sums, &perm)
    };
    let values = picked(builder, own)?;
    let indices = if call.wants(1) {
        let numbers = places_along(builder, n, rank - 1, rank + 1)?;
        Some(picked(builder, numbers)?)
    } else {
        None
    };
    Ok(vec![Some(values), indices])
}

pub fn arg_extreme(builder: &mut Builder, call: &Call, max: bool) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let mut shape = builder.shape(x);
    let axis = axis_index(call.int_or("axis", 0)?, shape.len())?;
    let last = call.int_or("select_last_index", 0)? != 0;
    if shape[axis] == 0 {
        return invalid("the dimension is empty");
    }
    let keep = call.int_or("keepdims", 1)? != 0;
    let Some(values) = builder.graph.constant(x).map(Data::to_f32) else {
        let found = computed_extreme(builder, x, axis, max, last)?;
        shape.remove(axis);
        return one(if keep { found } else { builder.reshape(found, &shape)? });
    };
    let (starts, stride) = lines(&shape, axis);
    let best = |start: usize| {
        let mut best = 0;
        for i in 1..shape[axis] {
            let (value, record) = (values[start + i * stride], values[start + best * stride]);
            let better = if max { value > record } else { value < record };
            if better || last && value == record {
                best = i;
            }
        }
        best as i64
    };
    let found = starts.into_iter().map(best).collect();
    if keep {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    one(builder.constant(&shape, Data::Int(found))?)
}
