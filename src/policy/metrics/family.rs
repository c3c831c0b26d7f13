//! A family: what all series of one name share.

/// What kind of numbers a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// Facts as labels of a series that is always 1.
    Info,
}

/// A family of series. Its name is that of the samples of a counter, a gauge or an info; a histogram's samples have
/// suffixes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    /// One line, with a full stop.
    pub help: &'static str,
}

/// A number that only grows; its name ends in `_total`.
#[must_use]
pub const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help }
}

/// A number that goes up and down.
#[must_use]
pub const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help }
}

/// Counts by size.
#[must_use]
pub const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, help }
}

/// Facts; its name ends in `_info`.
#[must_use]
pub const fn info(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Info, help }
}

impl Family {
    /// The type in Prometheus's text format, which has no word for facts.
    pub(super) const fn text_type(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Info => "gauge",
            Kind::Histogram => "histogram",
        }
    }

    /// The type in OpenMetrics.
    pub(super) const fn open_type(&self) -> &'static str {
        match self.kind {
            Kind::Info => "info",
            _ => self.text_type(),
        }
    }

    /// The name in OpenMetrics: there the suffix of a counter or of facts is the sample's, not the family's.
    pub(super) fn open_name(&self) -> &'static str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }

    /// The base unit that the name ends in.
    pub(super) fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"].into_iter().find(|unit| {
            self.open_name().strip_suffix(unit).is_some_and(|rest| rest.ends_with('_') && rest.len() > 1)
        })
    }
}
