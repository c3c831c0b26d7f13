//! What the verdicts on all servers of a group mean for each of them: degraded ones as the last choice, and panic.

/// What a group does when too few of its servers are usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sends to all of them, unhealthy ones too.
    All,
    /// Sends to none of them.
    None,
}

/// `panic_threshold`. Without it there is no panic: when no server is usable there is none, which is 0% and `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panic {
    /// In percent, 0 to 100.
    pub threshold: u8,
    pub mode: Mode,
}

/// One server, as far as its group is concerned. Those that the configuration or an operator took out do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub backup: bool,
    /// Its health checks let it have requests.
    pub usable: bool,
    /// Its breaker does not.
    pub ejected: bool,
    pub degraded: bool,
}

/// The group as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Outlook {
    primaries: u32,
    usable: u32,
    backups: u32,
    /// Usable and not degraded, backups too.
    healthy: u32,
}

impl Outlook {
    /// Of all servers of a group. One that its breaker keeps out is not usable, unless that would leave none: then
    /// breakers keep nobody out.
    #[must_use]
    pub fn of(standings: impl Iterator<Item = Standing> + Clone) -> Self {
        let mut outlook = Self::default();
        standings.clone().for_each(|its| outlook.add(Standing { usable: its.usable && !its.ejected, ..its }));
        if outlook.usable > 0 || outlook.backups > 0 {
            return outlook;
        }
        let mut outlook = Self::default();
        standings.for_each(|its| outlook.add(its));
        outlook
    }

    fn add(&mut self, standing: Standing) {
        self.primaries += u32::from(!standing.backup);
        self.usable += u32::from(!standing.backup && standing.usable);
        self.backups += u32::from(standing.backup && standing.usable);
        self.healthy += u32::from(standing.usable && !standing.degraded);
    }

    /// Whether degraded servers have to wait: a healthy one is left, if only a backup.
    #[must_use]
    pub fn spares_degraded(&self) -> bool {
        self.healthy > 0
    }

    /// Whether the group is in panic, and what it does then: fewer primary servers than `threshold` percent are
    /// usable, or none at all. Not while there is none but a usable backup, which is what a backup is for.
    #[must_use]
    pub fn panics(&self, panic: Panic) -> Option<Mode> {
        let few = u64::from(self.usable) * 100 < u64::from(self.primaries) * u64::from(panic.threshold);
        let left = self.usable > 0 || self.backups > 0;
        let panics = if self.usable > 0 { few } else { self.primaries > 0 && !left };
        panics.then_some(panic.mode)
    }

    /// Usable primary servers, and all.
    #[must_use]
    pub fn primaries(&self) -> (u32, u32) {
        (self.usable, self.primaries)
    }
}
