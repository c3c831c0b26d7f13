//! Each check of a server.

use std::collections::HashMap;

use super::{Histogram, Probes};
use crate::nginx::conf::MainConf;
use crate::nginx::health::{Member, Record};
use crate::nginx::sys::now;
use crate::policy::health::{CHANGES, FINDINGS};
use crate::shared::traffic::{Series, cells};

pub fn of(conf: &MainConf, member: &Member, series: &[Series<cells::Probes>]) -> Vec<Probes> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut name = |record: &Record| {
        let name = conf.health.check(record.check).map_or_else(String::new, |check| check.label());
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        if *count > 1 { format!("{name}#{count}") } else { name }
    };
    let records = member.records.iter().enumerate();
    records.map(|(at, record)| Probes { check: name(record), ..one(conf, record, series.get(at)) }).collect()
}

fn one(conf: &MainConf, record: &Record, series: Option<&Series<cells::Probes>>) -> Probes {
    let (view, now) = (record.shared.view(), now());
    let age = (view.last_probe != 0).then(|| now.mono.saturating_sub(view.last_probe));
    let patience = conf.health.check(record.check).map_or(0, |check| 2 * check.interval + check.timeout);
    Probes {
        last: age.map(|age| now.wall.saturating_sub(age)),
        last_passed: view.last_passed,
        overdue: age.is_some_and(|age| age > patience),
        skipped: view.overdue.into(),
        prober: record.shared.prober(now.mono),
        ..series.map(counted).unwrap_or_default()
    }
}

fn counted(series: &Series<cells::Probes>) -> Probes {
    let found = FINDINGS.iter().enumerate();
    let changes = CHANGES.iter().enumerate();
    let buckets = core::array::from_fn(|at| series.sum(|probes| &probes.times[at]));
    Probes {
        results: found
            .map(|(at, (result, reason))| (*result, *reason, series.sum(|probes| &probes.found[at])))
            .collect(),
        changes: changes
            .map(|(at, (from, to))| (from.as_str(), to.as_str(), series.sum(|probes| &probes.changes[at])))
            .collect(),
        durations: Histogram {
            buckets,
            count: buckets.iter().sum(),
            sum: series.sum(|probes| &probes.time_sum),
        },
        ..Probes::default()
    }
}
