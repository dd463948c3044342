use shiftformer::format::CRC;
use std::path::Path;

/// Every module was made from the text that stands beside it now: `matrices.py` writes the list.
#[test]
fn modules_and_their_texts_belong_together() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: &Path| std::fs::read(path).expect("the sources are here");
    let mut pieces: Vec<_> = std::fs::read_dir(source.join("glsl"))
        .expect("the sources are here")
        .map(|entry| entry.expect("the sources are here").path())
        .filter(|path| path.extension().is_some_and(|e| e == "glsl"))
        .collect();
    pieces.sort();
    let shared: Vec<u8> = pieces.iter().flat_map(|path| read(path)).collect();
    let list = String::from_utf8(read(&source.join("glsl/matrices.txt"))).expect("the list is text");
    assert_eq!(list.lines().count(), 14);
    for line in list.lines() {
        let [module, module_is, text, text_is]: [&str; 4] =
            line.split(' ').collect::<Vec<_>>().try_into().expect("four words to the line");
        let all = [shared.clone(), read(&source.join(text))].concat();
        assert_eq!(format!("{:08x}", CRC.checksum(&all)), text_is, "{text} has changed: run tools/gpu/matrices.py");
        assert_eq!(format!("{:08x}", CRC.checksum(&read(&source.join(module)))), module_is, "{module}");
    }
}
