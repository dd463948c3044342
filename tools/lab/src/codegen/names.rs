//! Identifiers from names in models.

/// Words that are neither Rust nor C identifiers, and the names the generated code uses itself.
const RESERVED: &[&str] = &[
    "abstract", "as", "async", "auto", "await", "become", "box", "break", "case", "char", "const", "continue", "crate",
    "default", "do", "double", "dyn", "else", "enum", "extern", "false", "final", "float", "fn", "for", "gen", "goto",
    "if", "impl", "in", "inline", "int", "let", "long", "loop", "macro", "match", "mod", "model", "move", "mut",
    "open", "override", "priv", "pub", "ref", "register", "restrict", "return", "self", "session", "short", "signed",
    "sizeof", "static", "struct", "super", "switch", "trait", "true", "try", "type", "typedef", "typeof", "union",
    "unsafe", "unsized", "unsigned", "use", "virtual", "void", "volatile", "where", "while", "yield",
];

/// `name` as an identifier in snake case that is not in `taken`; it is added there.
pub(super) fn unique(name: &str, taken: &mut Vec<String>) -> String {
    let base = identifier(name);
    let mut candidate = base.clone();
    let mut number = 2;
    while taken.contains(&candidate) {
        candidate = format!("{base}_{number}");
        number += 1;
    }
    taken.push(candidate.clone());
    candidate
}

/// `name` as an identifier in snake case: letters, digits and single underscores.
pub(super) fn identifier(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        let c = if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        if c != '_' || !out.ends_with('_') {
            out.push(c);
        }
    }
    let out = out.trim_matches('_').to_owned();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) || RESERVED.contains(&out.as_str()) {
        return format!("tensor_{out}").trim_end_matches('_').to_owned();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_becomes_an_identifier() {
        let cases = [
            ("image", "image"),
            ("input.1", "input_1"),
            ("/head/Gemm", "head_gemm"),
            ("1", "tensor_1"),
            ("type", "tensor_type"),
            ("", "tensor"),
            ("日本", "tensor"),
            ("a--b", "a_b"),
        ];
        for (name, expected) in cases {
            assert_eq!(identifier(name), expected);
        }
    }

    #[test]
    fn equal_names_are_numbered() {
        let mut taken = Vec::new();
        let names: Vec<String> = ["x", "X", "x_2"].iter().map(|n| unique(n, &mut taken)).collect();
        assert_eq!(names, ["x", "x_2", "x_2_2"]);
    }
}
