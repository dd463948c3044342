//! Grey images in the terminal.

use std::io::IsTerminal;

/// A grey image, row major.
pub struct Picture {
    /// Pixels per row.
    pub width: usize,
    /// 0 is black.
    pub pixels: Vec<u8>,
    /// Line below the image.
    pub caption: String,
}

/// Columns between images.
const GAP: usize = 4;
/// Darkest to brightest.
const RAMP: &[u8; 10] = b" .:-=+*#%@";

/// The images side by side with their captions: half blocks in grey on a terminal, plain characters elsewhere.
pub fn row(pictures: &[Picture]) -> String {
    let grey = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if grey { draw(pictures, half_blocks, 1) } else { draw(pictures, characters, 2) }
}

/// `lines` gives the text of one image; a pixel is `columns` wide.
fn draw(pictures: &[Picture], lines: fn(&Picture) -> Vec<String>, columns: usize) -> String {
    let drawn: Vec<Vec<String>> = pictures.iter().map(lines).collect();
    let height = drawn.iter().map(Vec::len).max().unwrap_or(0);
    let width = |p: &Picture| (p.width * columns).max(p.caption.chars().count());
    let mut text = String::new();
    for line in 0..height {
        for (picture, lines) in pictures.iter().zip(&drawn) {
            text += lines.get(line).map_or("", String::as_str);
            text += &" ".repeat(width(picture) - picture.width * columns + GAP);
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    for picture in pictures {
        text += &format!("{:<width$}", picture.caption, width = width(picture) + GAP);
    }
    text.trim_end().to_owned() + "\n"
}

fn half_blocks(picture: &Picture) -> Vec<String> {
    let rows: Vec<&[u8]> = picture.pixels.chunks(picture.width.max(1)).collect();
    rows.chunks(2)
        .map(|pair| {
            let cell = |(x, &top): (usize, &u8)| {
                let bottom = pair.get(1).and_then(|row| row.get(x)).copied().unwrap_or(0);
                format!("\x1b[38;2;{top};{top};{top};48;2;{bottom};{bottom};{bottom}m\u{2580}")
            };
            pair[0].iter().enumerate().map(cell).collect::<String>() + "\x1b[0m"
        })
        .collect()
}

fn characters(picture: &Picture) -> Vec<String> {
    let character = |&pixel: &u8| char::from(RAMP[usize::from(pixel) * (RAMP.len() - 1) / 255]);
    let row = |row: &[u8]| row.iter().flat_map(|p| [character(p); 2]).collect();
    picture.pixels.chunks(picture.width.max(1)).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_side_by_side_over_their_captions() {
        let picture = |caption: &str| Picture { width: 2, pixels: vec![0, 255, 255, 0], caption: caption.to_owned() };
        let text = draw(&[picture("a"), picture("b")], characters, 2);
        assert_eq!(text, "  @@      @@\n@@      @@\na       b\n");
    }

    #[test]
    fn two_rows_share_a_line_of_half_blocks() {
        let picture = Picture { width: 1, pixels: vec![10, 20, 30], caption: String::new() };
        let lines = half_blocks(&picture);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("38;2;10;10;10;48;2;20;20;20"));
    }
}
