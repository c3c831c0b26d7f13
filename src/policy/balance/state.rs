//! The one word for a server's state that clients of the API see, out of all that bears upon it.

/// A server's state, in NGINX Plus's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Up,
    Draining,
    Down,
    Unavail,
    Checking,
    Unhealthy,
}

/// What bears upon it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// `down` in the configuration, or by an operator.
    pub down: bool,
    pub draining: bool,
    pub unhealthy: bool,
    pub checking: bool,
    /// The core has put it aside after `max_fails`.
    pub unavail: bool,
}

impl State {
    /// The strongest fact wins: what people said before what checks found, checks before what traffic met.
    #[must_use]
    pub fn of(facts: Facts) -> Self {
        match facts {
            Facts { down: true, .. } => Self::Down,
            Facts { unhealthy: true, .. } => Self::Unhealthy,
            Facts { checking: true, .. } => Self::Checking,
            Facts { unavail: true, .. } => Self::Unavail,
            Facts { draining: true, .. } => Self::Draining,
            _ => Self::Up,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Unavail => "unavail",
            Self::Checking => "checking",
            Self::Unhealthy => "unhealthy",
        }
    }
}
