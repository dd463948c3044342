//! How to convert, and what is left to the converter.

use crate::lower::lmul::Lmul;
use crate::quantize::range::RangeMethod;
use crate::quantize::tables::Embeddings;
use shiftformer::format::Profile;
use shiftformer::weights::WeightFormat;

/// Bits of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightBits {
    /// 8 bits everywhere.
    Eight,
    /// 4 bits everywhere, rounded with error compensation.
    Four,
    /// 3 bits everywhere, likewise.
    Three,
    /// 2 bits everywhere, likewise.
    Two,
    /// 8 or 4 bits per layer, so that the file has at most this many bytes; 4 or 3, or 3 or 2, where 4 or 3 bits everywhere
    /// are too many.
    Mixed {
        /// Maximum size of the file.
        flash_budget: usize,
    },
}

impl WeightBits {
    /// The format of all layers, before some of them get fewer bits.
    pub fn format(self) -> WeightFormat {
        match self {
            Self::Eight | Self::Mixed { .. } => WeightFormat::I8,
            Self::Four => WeightFormat::I4,
            Self::Three => WeightFormat::I3,
            Self::Two => WeightFormat::I2,
        }
    }
}

/// A choice that can be left to the converter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// By measured SQNR.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Bits of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationBits {
    /// 8 bits wherever there is an operator for them.
    Eight,
    /// 16 bits wherever there is one.
    Sixteen,
    /// 8 bits; 16 for the tensors whose 8 bits cost most, where the outputs gain by them.
    Auto,
}

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Numeric profile.
    pub profile: Profile,
    /// Range of 8-bit activations.
    pub range: RangeMethod,
    /// Bits of the weights.
    pub weights: WeightBits,
    /// Scale migration from normalized activations into weights.
    pub equalize: Switch,
    /// Correct biases for the mean error of the rounded weights.
    pub bias_correction: bool,
    /// 16-bit exponentials in attention; under the I-ViT profile 16-bit probabilities.
    pub wide_exp: Switch,
    /// Attention with the score matrix, in three operators.
    pub unfused_attention: bool,
    /// Operators in chains of row blocks where that makes the arena smaller, see [`chain`].
    pub row_blocks: Switch,
    /// Bits of the activations that dense layers, products and functions read.
    pub activations: ActivationBits,
    /// How the tables that ids are looked up in are stored.
    pub embeddings: Embeddings,
    /// Which dense layers multiply by addition under [`Profile::Lmul`], and in which format.
    pub lmul: Lmul,
    /// Raw pixels become `(x / 255 - mean) / std`.
    pub normalization: Option<(f64, f64)>,
    /// Reference runs stored in the file, from the first samples.
    pub receipts: usize,
    /// The graph is a decoder, see [`derive`](crate::decoder::derive): rows of a run of the finished model.
    pub decoder: Option<DecoderRows>,
    /// File name of the source model, for people.
    pub source: String,
}

/// How many tokens one run of a decoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderRows {
    /// As many, up to 16, as leave the arena small beside the state.
    Auto,
    /// At most so many.
    Fixed(usize),
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            profile: Profile::Shift,
            range: RangeMethod::Auto,
            weights: WeightBits::Eight,
            equalize: Switch::Auto,
            bias_correction: true,
            wide_exp: Switch::Auto,
            unfused_attention: false,
            row_blocks: Switch::Auto,
            activations: ActivationBits::Auto,
            embeddings: Embeddings::Plain,
            lmul: Lmul::default(),
            normalization: None,
            receipts: 2,
            decoder: None,
            source: String::new(),
        }
    }
}
