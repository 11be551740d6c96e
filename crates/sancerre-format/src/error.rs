//! Why bytes were refused. The caller adds which object they came from.

/// Why a decoder refused its input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes break a rule of `docs/FORMAT.md`.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// The structure, as FORMAT.md calls it.
        what: &'static str,
        /// Which rule, with the numbers found.
        detail: String,
    },
    /// The bytes are well formed but need a newer version.
    #[error("{what} needs a newer version of sancerre: {feature}")]
    Unsupported {
        /// The structure, as FORMAT.md calls it.
        what: &'static str,
        /// The unknown version, suite or critical feature.
        feature: String,
    },
    /// A signature, seal or hash does not fit: the bytes are not what the key's owner made.
    #[error("{what} does not verify: {detail}")]
    Forged {
        /// The structure, as FORMAT.md calls it.
        what: &'static str,
        /// What was compared.
        detail: String,
    },
}

/// The result of every decoder.
pub type Result<T> = std::result::Result<T, FormatError>;

pub(crate) fn corrupt(what: &'static str, detail: impl Into<String>) -> FormatError {
    FormatError::Corrupt { what, detail: detail.into() }
}

pub(crate) fn unsupported(what: &'static str, feature: impl Into<String>) -> FormatError {
    FormatError::Unsupported { what, feature: feature.into() }
}

pub(crate) fn forged(what: &'static str, detail: impl Into<String>) -> FormatError {
    FormatError::Forged { what, detail: detail.into() }
}

/// Fails with [`FormatError::Corrupt`] unless `rule` holds.
pub(crate) fn ensure(rule: bool, what: &'static str, detail: impl FnOnce() -> String) -> Result<()> {
    if rule { Ok(()) } else { Err(corrupt(what, detail())) }
}
