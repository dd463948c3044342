//! PNG and JPEG images.

use super::{Converted, MediaError, read, takes};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use shiftformer::tensor::Dtype;
use shiftformer_convert::model_file::{ModelFile, Values};
use std::io::Cursor;
use std::path::Path;

/// Most memory that decoding may take.
const MAX_DECODED_BYTES: u64 = 1 << 30;

/// How the source model's numbers are made of pixels: `(x / 255 - mean) / std`, one value for all channels or one each.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// Means.
    pub mean: Vec<f64>,
    /// Deviations, as many, above 0.
    pub std: Vec<f64>,
}

/// The image that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    height: usize,
    width: usize,
    channels: usize,
    /// Channel after channel instead of pixel after pixel.
    planar: bool,
}

impl Layout {
    /// Of a shape with one or three channels, before or behind height and width; a batch of one before them.
    fn of(shape: &[usize]) -> Option<Self> {
        let channels = |n: usize| n == 1 || n == 3;
        let layout = |height, width, channels, planar| Some(Self { height, width, channels, planar });
        match *shape {
            [1, c, height, width] if channels(c) => layout(height, width, c, true),
            [1, height, width, c] if channels(c) => layout(height, width, c, false),
            [c, height, width] if channels(c) => layout(height, width, c, true),
            [height, width, c] if channels(c) => layout(height, width, c, false),
            [height, width] if height > 1 && width > 1 => layout(height, width, 1, true),
            _ => None,
        }
    }

    /// Pixels of an image of this size in the order of the model.
    fn pixels(&self, image: &DynamicImage) -> Vec<u8> {
        let interleaved = match self.channels {
            1 => image.to_luma8().into_raw(),
            _ => image.to_rgb8().into_raw(),
        };
        if !self.planar {
            return interleaved;
        }
        (0..self.channels).flat_map(|c| interleaved.iter().copied().skip(c).step_by(self.channels)).collect()
    }

    /// The channel of element `at`.
    fn channel(&self, at: usize) -> usize {
        if self.planar { at / (self.height * self.width).max(1) } else { at % self.channels.max(1) }
    }
}

/// The file as bytes of the model's only input: turned as its camera says, scaled until it covers height and width, cropped
/// at its middle.
///
/// # Errors
/// [`MediaError`].
pub fn sample(model: &ModelFile, path: &Path, normalization: Option<&Normalization>) -> Result<Converted, MediaError> {
    let kind = || MediaError::Kind { takes: takes(model), kind: "an image" };
    let [input] = model.inputs() else { return Err(kind()) };
    let layout = Layout::of(&input.shape).ok_or_else(kind)?;
    let bytes_as_they_are = model.input_dtype(0) == Some(Dtype::U8) || input.normalization.is_some();
    match normalization {
        Some(_) if bytes_as_they_are => return Err(MediaError::Twice),
        None if !bytes_as_they_are => return Err(MediaError::Normalization),
        Some(Normalization { mean, std }) => {
            let fits = |n: usize| n == 1 || n == layout.channels;
            if let Some(given) = [mean.len(), std.len()].into_iter().find(|&n| !fits(n)) {
                return Err(MediaError::Channels { given, channels: layout.channels });
            }
        }
        None => {}
    }
    let (image, mut notes) = decode(path)?;
    let image = fit(image, layout, &mut notes);
    let pixels = layout.pixels(&image);
    let values = match normalization {
        None => Values::U8(pixels),
        Some(Normalization { mean, std }) => {
            let of = |values: &[f64], channel: usize| values.get(channel).or(values.first()).copied().unwrap_or(0.0);
            let real = |(at, &x): (usize, &u8)| {
                let channel = layout.channel(at);
                ((f64::from(x) / 255.0 - of(mean, channel)) / of(std, channel)) as f32
            };
            Values::Float(pixels.iter().enumerate().map(real).collect())
        }
    };
    Ok(Converted { bytes: model.encode(0, &values)?, notes })
}

/// The image, upright.
fn decode(path: &Path) -> Result<(DynamicImage, Vec<String>), MediaError> {
    let damaged = |why: String| MediaError::Damaged { path: path.to_owned(), why, expected: "PNG or JPEG" };
    let bytes = read(path)?;
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|error| damaged(error.to_string()))?;
    if reader.format().is_none() {
        return Err(damaged("not an image of a known kind".to_owned()));
    }
    let mut decoder = reader.into_decoder().map_err(|error| damaged(error.to_string()))?;
    let orientation = decoder.orientation().map_err(|error| damaged(error.to_string()))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| damaged(error.to_string()))?;
    image.apply_orientation(orientation);
    let mut notes = Vec::new();
    if image.color().has_alpha() {
        notes.push("the image is partly transparent; its colours are taken as if it were not".to_owned());
    }
    if image.color().bytes_per_pixel() > image.color().channel_count() {
        notes.push("the image has more than 8 bits per channel; the lower ones are left out".to_owned());
    }
    Ok((image, notes))
}

/// Scaled and cropped to the layout's height and width, grey where it has one channel.
fn fit(image: DynamicImage, layout: Layout, notes: &mut Vec<String>) -> DynamicImage {
    let image = match (layout.channels, image.color().has_color()) {
        (1, true) => {
            notes.push("the model takes grey images: colours became their luminance".to_owned());
            image.grayscale()
        }
        (1, false) | (_, true) => image,
        (_, false) => {
            notes.push("the model takes images in colour: the grey one has three equal channels".to_owned());
            image
        }
    };
    let (width, height) = (layout.width as u64, layout.height as u64);
    let (from_width, from_height) = (u64::from(image.width()), u64::from(image.height()));
    if (from_width, from_height) == (width, height) {
        return image;
    }
    // The smaller of both ratios: what is left of the other side is cropped.
    let scaled = |from: u64, by: u64, of: u64| ((from * by * 2 + of) / (2 * of.max(1))) as u32;
    let (cover_width, cover_height) = if from_width * height >= from_height * width {
        (scaled(from_width, height, from_height).max(layout.width as u32), layout.height as u32)
    } else {
        (layout.width as u32, scaled(from_height, width, from_width).max(layout.height as u32))
    };
    let resized = image.resize_exact(cover_width, cover_height, FilterType::Triangle);
    let (x, y) = ((cover_width - layout.width as u32) / 2, (cover_height - layout.height as u32) / 2);
    let cropped = (cover_width, cover_height) != (layout.width as u32, layout.height as u32);
    let and = if cropped { format!(", the middle {width} x {height} of it taken") } else { String::new() };
    notes.push(format!("scaled from {from_width} x {from_height} to {cover_width} x {cover_height}{and}"));
    let rgba = resized.color().has_alpha();
    let crop =
        |image: &DynamicImage| imageops::crop_imm(image, x, y, layout.width as u32, layout.height as u32).to_image();
    let middle = DynamicImage::ImageRgba8(crop(&resized));
    if rgba { middle } else { DynamicImage::ImageRgb8(middle.to_rgb8()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Rgb, RgbImage};

    #[test]
    fn layouts_of_shapes() {
        let of = |shape: &[usize]| Layout::of(shape).map(|l| (l.height, l.width, l.channels, l.planar));
        assert_eq!(of(&[1, 3, 224, 160]), Some((224, 160, 3, true)));
        assert_eq!(of(&[1, 224, 160, 3]), Some((224, 160, 3, false)));
        assert_eq!(of(&[1, 28, 28]), Some((28, 28, 1, true)));
        assert_eq!(of(&[28, 28]), Some((28, 28, 1, true)));
        for none in [&[1, 98, 40, 2][..], &[2, 3, 8, 8], &[1, 64], &[64], &[]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn planes_follow_each_other_where_the_model_has_them_so() {
        let image = DynamicImage::ImageRgb8(RgbImage::from_fn(2, 1, |x, _| Rgb([x as u8, 10 + x as u8, 20 + x as u8])));
        let layout = |planar| Layout { height: 1, width: 2, channels: 3, planar };
        assert_eq!(layout(true).pixels(&image), [0, 1, 10, 11, 20, 21]);
        assert_eq!(layout(false).pixels(&image), [0, 10, 20, 1, 11, 21]);
        assert_eq!([0, 1, 2, 5].map(|at| layout(true).channel(at)), [0, 0, 1, 2]);
        assert_eq!([0, 1, 2, 5].map(|at| layout(false).channel(at)), [0, 1, 2, 2]);
    }

    #[test]
    fn images_cover_the_input_and_keep_their_middle() {
        // Thirds of black, grey and white: the middle one is what a square shows.
        let image = GrayImage::from_fn(90, 30, |x, _| image::Luma([(x / 30 * 127) as u8]));
        let layout = Layout { height: 15, width: 15, channels: 1, planar: true };
        let mut notes = Vec::new();
        let fitted = fit(DynamicImage::ImageLuma8(image), layout, &mut notes);
        assert_eq!((fitted.width(), fitted.height()), (15, 15));
        let pixels = layout.pixels(&fitted);
        assert!(pixels.chunks(15).all(|row| row[2..13].iter().all(|&x| x == 127)), "{pixels:?}");
        assert_eq!(notes, ["scaled from 90 x 30 to 45 x 15, the middle 15 x 15 of it taken"]);
    }
}
