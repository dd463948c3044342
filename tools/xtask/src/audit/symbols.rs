//! Forbidden functions, and what the inference can reach.

use super::elf::{Function, Image};
use super::thumb::instructions;
use std::collections::{BTreeMap, BTreeSet};

/// Soft-float routines of the Arm run-time ABI (section 4.1.2) beside `__aeabi_f*` and `__aeabi_d*`.
const CONVERSIONS: [&str; 8] = ["i2f", "ui2f", "l2f", "ul2f", "i2d", "ui2d", "l2d", "ul2d"];
/// Soft-float routines by their GCC names: these operations with a suffix of types.
const OPERATIONS: [&str; 17] = [
    "add", "sub", "mul", "div", "neg", "eq", "ne", "lt", "le", "gt", "ge", "cmp", "unord", "pow", "extend", "trunc",
    "fix",
];
/// Parts of names of allocators.
const ALLOCATORS: [&str; 6] =
    ["__rust_alloc", "__rust_realloc", "__rdl_alloc", "__rg_alloc", "malloc", "alloc::alloc::"];
/// Parts of names of the panic machinery.
const PANICS: [&str; 6] =
    ["core::panicking", "rust_begin_unwind", "panic_fmt", "panic_bounds_check", "unwrap_failed", "expect_failed"];
/// Parts of names of the functions of an operator that the inference calls through its table. Parts are for steps alone.
const OPERATORS: [&str; 2] = ["shiftformer::ops::entry::run::<", "shiftformer::ops::entry::needs::<"];

/// Part of the names of the functions of tokenizers and sampling.
const TEXT: &str = "shiftformer::text::";

/// Soft-float routines and allocators.
pub fn forbidden(image: &Image) -> Vec<String> {
    let finding = |function: &Function| {
        let name = function.name.as_str();
        if is_soft_float(name) {
            return Some(format!("soft-float routine {name}"));
        }
        ALLOCATORS.iter().any(|part| name.contains(part)).then(|| format!("allocator {name}"))
    };
    image.functions.values().filter_map(finding).collect()
}

/// The panic machinery, wherever it is called from.
pub fn panics(image: &Image) -> Vec<String> {
    image.functions.values().filter(|f| is_panic(&f.name)).map(|f| format!("panic machinery {}", f.name)).collect()
}

/// The panic machinery that the inference can reach, or what makes tokens of texts and texts of tokens.
pub fn reachable_panics(image: &Image) -> Vec<String> {
    let Some(reached) = reached(image, &|f| is_inference(f) || f.name.contains(TEXT)) else {
        return vec!["there is no function `inference` to start from".into()];
    };
    let panics = reached.iter().filter(|(_, callee)| is_panic(&callee.function.name));
    panics.map(|(_, callee)| format!("panic machinery {} called from {}", callee.function.name, callee.from)).collect()
}

/// A function that is reached, and from where.
pub struct Reached<'a> {
    /// The function.
    pub function: &'a Function,
    /// Name of the caller first seen.
    pub from: &'a str,
}

/// What the inference can reach: from the functions called `inference` and from the operators, which are called through
/// a table of pointers. `None` when there is nothing to start from.
pub fn inference(image: &Image) -> Option<BTreeMap<u32, Reached<'_>>> {
    reached(image, &is_inference)
}

fn is_inference(f: &Function) -> bool {
    f.name == "inference" || f.name.contains("::inference::<") || f.name.ends_with("::inference")
}

/// What the functions that are a start and the operators can reach.
fn reached<'a>(image: &'a Image, is_start: &dyn Fn(&Function) -> bool) -> Option<BTreeMap<u32, Reached<'a>>> {
    let pointers: BTreeSet<u32> = image.words.iter().filter(|word| *word & 1 == 1).map(|word| word & !1).collect();
    let is_operator =
        |f: &&Function| pointers.contains(&f.address) && OPERATORS.iter().any(|part| f.name.contains(part));
    let starts: Vec<&Function> = image.functions.values().filter(|f| is_start(f)).collect();
    if starts.is_empty() {
        return None;
    }
    let operators = image.functions.values().filter(is_operator);
    let mut reached = BTreeMap::new();
    let mut open: Vec<Reached<'_>> =
        starts.into_iter().chain(operators).map(|function| Reached { function, from: "the start" }).collect();
    let calls = calls(image);
    while let Some(next) = open.pop() {
        let function = next.function;
        if reached.contains_key(&function.address) {
            continue;
        }
        let callees = calls.get(&function.address).into_iter().flatten();
        open.extend(
            callees
                .filter_map(|address| image.functions.get(address))
                .map(|callee| Reached { function: callee, from: &function.name }),
        );
        reached.insert(function.address, next);
    }
    Some(reached)
}

/// Direct calls and jumps between functions, and functions whose address another one takes, by address.
fn calls(image: &Image) -> BTreeMap<u32, BTreeSet<u32>> {
    let mut calls: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut call = |from: u32, to: Option<&Function>| {
        if let (Some(from), Some(to)) = (image.function_at(from), to.filter(|to| to.address != from)) {
            calls.entry(from.address).or_default().insert(to.address);
        }
    };
    // A pointer to a function has bit 0 set.
    let pointed = |word: u32| image.functions.get(&(word & !1)).filter(|_| word & 1 == 1);
    for (&at, &word) in &image.literals {
        call(at, pointed(word));
    }
    // Lower halves that wait for their upper ones, by register.
    let mut halves = [0u16; 16];
    for instruction in image.code.iter().flat_map(instructions) {
        let target = instruction.branch_target().and_then(|target| image.function_at(target));
        call(instruction.address, target);
        let Some((register, value, top)) = instruction.constant() else { continue };
        let half = &mut halves[register as usize];
        if top {
            call(instruction.address, pointed(u32::from(value) << 16 | u32::from(*half)));
        } else {
            *half = value;
        }
    }
    calls
}

fn is_panic(name: &str) -> bool {
    PANICS.iter().any(|part| name.contains(part))
}

fn is_soft_float(name: &str) -> bool {
    // compiler-builtins: `compiler_builtins::float::add::__addsf3` or the plain symbol.
    let name = name.rsplit("::").next().unwrap_or(name);
    if let Some(rest) = name.strip_prefix("__aeabi_") {
        let float = rest.starts_with('f') || rest.starts_with('d') || rest.starts_with("cf") || rest.starts_with("cd");
        return float || CONVERSIONS.contains(&rest);
    }
    let Some(rest) = name.strip_prefix("__") else { return false };
    let typed = |tail: &str| tail.contains("sf") || tail.contains("df") || tail.contains("hf") || tail.contains("tf");
    let is_operation = OPERATIONS.iter().any(|operation| rest.strip_prefix(operation).is_some_and(typed));
    is_operation || rest.strip_prefix("float").is_some_and(typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_float_names_are_told_from_integer_ones() {
        let floats = ["__aeabi_fadd", "__aeabi_dmul", "__aeabi_ui2f", "__aeabi_f2iz", "__aeabi_cdcmple", "__addsf3"];
        for name in floats.into_iter().chain(["__muldf3", "__floatsisf", "__fixunsdfsi", "__ltsf2", "__extendsfdf2"]) {
            assert!(is_soft_float(name), "{name}");
            assert!(is_soft_float(&format!("compiler_builtins::arm::{name}")), "{name}");
        }
        let integers = ["__aeabi_uidiv", "__aeabi_lmul", "__aeabi_memcpy4", "__aeabi_llsl", "__muldi3", "__pender"];
        for name in integers.into_iter().chain(["__ashldi3", "main", "float", "__udivmodsi4", "__lshrdi3"]) {
            assert!(!is_soft_float(name), "{name}");
        }
    }

    #[test]
    fn panic_names_are_found() {
        for name in ["core::panicking::panic_bounds_check", "rust_begin_unwind", "core::option::unwrap_failed"] {
            assert!(is_panic(name), "{name}");
        }
        assert!(!is_panic("shiftformer::ops::entry::run"));
    }
}
