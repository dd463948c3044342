//! Processor cores.

/// A processor core that programs are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[allow(missing_docs)]
pub enum Core {
    #[cfg_attr(feature = "serde", serde(rename = "Cortex-M0"))]
    M0,
    #[cfg_attr(feature = "serde", serde(rename = "Cortex-M0+"))]
    M0Plus,
    #[cfg_attr(feature = "serde", serde(rename = "Cortex-M3"))]
    M3,
    #[cfg_attr(feature = "serde", serde(rename = "RV32IMC"))]
    Rv32Imc,
    #[cfg_attr(feature = "serde", serde(rename = "RV32IMAC"))]
    Rv32Imac,
    #[cfg_attr(feature = "serde", serde(rename = "Cortex-M23"))]
    M23,
    #[cfg_attr(feature = "serde", serde(rename = "Cortex-M4"))]
    M4,
    #[cfg_attr(feature = "serde", serde(rename = "Cortex-M33"))]
    M33,
    #[cfg_attr(feature = "serde", serde(rename = "Cortex-M7"))]
    M7,
    #[cfg_attr(feature = "serde", serde(rename = "Cortex-M55"))]
    M55,
}

impl Core {
    /// Name of the core.
    pub const fn name(self) -> &'static str {
        match self {
            Self::M0 => "Cortex-M0",
            Self::M0Plus => "Cortex-M0+",
            Self::M3 => "Cortex-M3",
            Self::Rv32Imc => "RV32IMC",
            Self::Rv32Imac => "RV32IMAC",
            Self::M23 => "Cortex-M23",
            Self::M4 => "Cortex-M4",
            Self::M33 => "Cortex-M33",
            Self::M7 => "Cortex-M7",
            Self::M55 => "Cortex-M55",
        }
    }

    /// Name of the variant, for generated code.
    pub const fn variant(self) -> &'static str {
        match self {
            Self::M0 => "M0",
            Self::M0Plus => "M0Plus",
            Self::M3 => "M3",
            Self::Rv32Imc => "Rv32Imc",
            Self::Rv32Imac => "Rv32Imac",
            Self::M23 => "M23",
            Self::M4 => "M4",
            Self::M33 => "M33",
            Self::M7 => "M7",
            Self::M55 => "M55",
        }
    }
}
