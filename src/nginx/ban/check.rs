//! Refusing banned clients, before anything is charged for them.

use core::cell::{Cell, RefCell};

use nginx_sys as sys;

use super::super::log::Level;
use super::super::reject::{Cause, Refusal, refuse};
use super::super::request::Request;
use super::super::sys::{DECLINED, mono, worker_index};
use super::{Ban, Status, ZoneConf};
use crate::policy::Millis;
use crate::policy::ban::Name;

/// The ban part of a request's context.
#[derive(Default)]
pub struct Screened {
    /// Those of the location that the client asked for.
    pub bans: Cell<Option<&'static [Ban]>>,
    /// The number of the zone that the status is about.
    pub found: Cell<Option<(Status, usize)>>,
    /// The response has been counted.
    pub counted: Cell<bool>,
    /// The key of each of these bans as the client's own request had it: an internal redirect may change what it is made of.
    keys: RefCell<Vec<Key>>,
}

/// Bytes in the request's pool, or in the configuration's; empty: nobody is meant.
#[derive(Clone, Copy)]
struct Key(*const [u8]);

impl Screened {
    /// What the key of the ban of this number is called, if it was looked at before.
    pub fn name(&self, request: &Request, zone: &ZoneConf, number: usize) -> Option<Option<Name>> {
        let key = *self.keys.try_borrow().ok()?.get(number)?;
        // SAFETY: what a variable's value points at lives as long as the request, which is alive.
        Some(zone.name(request, unsafe { &*key.0 }))
    }
}

/// The preaccess handler, before limits. Subrequests and internal redirects are not looked at again.
pub fn handler(request: &Request) -> sys::ngx_int_t {
    let bans = request.loc_conf().ban.bans.as_slice();
    if bans.is_empty() || !request.is_main() {
        return DECLINED;
    }
    let Some(ctx) = request.ctx_or_new() else { return sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _ };
    if ctx.ban.bans.replace(Some(bans)).is_some() {
        return DECLINED;
    }
    let now = mono();
    let mut worst: Option<(Status, usize, Millis)> = None;
    for ban in bans {
        let zone = ban.zone.and_then(|number| request.main_conf().bans.get(number));
        let key = zone.and_then(|zone| zone.key.eval(request)).unwrap_or_default();
        if let Ok(mut keys) = ctx.ban.keys.try_borrow_mut() {
            keys.push(Key(key));
        }
        let until = zone.and_then(|zone| banned(request, zone, ban, key, now));
        if let Some((zone, until)) = ban.zone.zip(until) {
            let status = if ban.dry_run() { Status::BannedDryRun } else { Status::Banned };
            let rank = |status, until| (status == Status::Banned, until);
            if worst.is_none_or(|(s, _, u)| rank(status, until) > rank(s, u)) {
                worst = Some((status, zone, until));
            }
        }
    }
    ctx.ban.found.set(match worst {
        Some((status, zone, _)) => Some((status, zone)),
        None => bans.first().and_then(|ban| ban.zone).map(|zone| (Status::Passed, zone)),
    });
    match worst {
        Some((status, zone, until)) => banned_by(request, (status, zone), until - now),
        None => DECLINED,
    }
}

/// The end of a ban of this request's key.
fn banned(request: &Request, zone: &ZoneConf, ban: &Ban, key: &[u8], now: Millis) -> Option<Millis> {
    zone.watch(now);
    let shared = zone.shared()?;
    if !shared.any(now) {
        return None;
    }
    let name = zone.name(request, key)?;
    let until = shared.banned(&ban.hash(&name), now)?;
    if let Some(address) = name.address {
        shared.seen(&ban.hash(&name), address);
    }
    shared.refused(usize::from(worker_index()), ban.dry_run());
    Some(until)
}

fn banned_by(request: &Request, (status, zone): (Status, usize), left: Millis) -> sys::ngx_int_t {
    let name = request.main_conf().bans.get(zone).map_or("", |zone| zone.name.as_str());
    if status == Status::BannedDryRun {
        request.log(Level::Info, format_args!("banned for {left} ms more, dry run, zone \"{name}\""));
        return DECLINED;
    }
    request.log(Level::Info, format_args!("request refused, banned for {left} ms more, zone \"{name}\""));
    refuse(
        request,
        Refusal { cause: Cause::Banned, status: request.loc_conf().ban.status(), retry_after: left },
    )
}
