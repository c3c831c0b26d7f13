//! Metrics as text: Prometheus's exposition format 0.0.4 and OpenMetrics 1.0.
//!
//! What is written can always be read: names are the source's, labels are escaped, no family and no series comes
//! twice, and there are never more series than allowed.

mod accept;
mod family;
pub mod states;
mod value;
mod writer;

pub use accept::negotiate;
pub use family::{Family, Kind, counter, gauge, histogram, info};
pub use value::{Bound, Buckets, Value};
pub use writer::{Labels, Series, Writer};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The response's content type, and how much of it is the media type alone.
    #[must_use]
    pub const fn content_type(self) -> (&'static str, usize) {
        match self {
            Self::Text => ("text/plain; version=0.0.4; charset=utf-8", "text/plain".len()),
            Self::OpenMetrics => (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                "application/openmetrics-text".len(),
            ),
        }
    }
}

#[cfg(test)]
pub mod tests;
