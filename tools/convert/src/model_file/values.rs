//! Values as they come from the user.

/// The values of one input for one sample, as they come from the user.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Raw pixels or bytes.
    U8(Vec<u8>),
    /// Ids, masks.
    Int(Vec<i64>),
    /// Real numbers in the units of the source model.
    Float(Vec<f32>),
}

impl Values {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::U8(v) => v.len(),
            Values::Int(v) => v.len(),
            Values::Float(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as real numbers; raw pixels through `normalization`, where there is one: `(x / 255 - mean) / std`.
    pub fn to_real(&self, normalization: Option<(f64, f64)>) -> Vec<f32> {
        match (self, normalization) {
            (Values::U8(v), Some((mean, std))) => {
                v.iter().map(|&x| ((f64::from(x) / 255.0 - mean) / std) as f32).collect()
            }
            (Values::U8(v), None) => v.iter().map(|&x| f32::from(x)).collect(),
            (Values::Int(v), _) => v.iter().map(|&x| x as f32).collect(),
            (Values::Float(v), _) => v.clone(),
        }
    }
}
