//! `match NAME { … }`: its lines are rows of the command table that are only allowed inside it, so that
//! `include`, unknown names and misplaced ones are nginx's own business.

use std::sync::Arc;

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Result, complain};
use super::super::conf::{M, MainConf};
use super::super::sys::CONF_OK;
use super::Named;
use super::require::Required;
use crate::policy::health::{Builder, MatchError};

/// `match NAME { … }`
pub fn match_block(directive: &Directive, conf: *mut MainConf) -> Result {
    let name = directive.arg();
    // SAFETY: nginx passes the main configuration of the http block; the borrow ends before lines are read.
    if unsafe { (*conf).health.find_match(name) }.is_some() {
        return Err(ConfError::Other(format!("has duplicate name \"{name}\"")));
    }
    let mut builder = Builder::new(name);
    inside(directive, &raw mut builder)?;
    let matched = builder.finish().map_err(|error| refuse(directive, &error))?;
    let required = matched.required().iter().map(|name| Required::new(directive.cf(), name));
    let required = required.collect::<Result<_>>()?;
    let named = Named { name: name.to_owned(), matched: Arc::new(matched), required };
    // SAFETY: as above; the lines have been read.
    unsafe { (*conf).health.matches.push(named) };
    Ok(())
}

/// `status`, `header`, `body`, `json`, `require`
pub fn line(directive: &Directive) -> Result {
    // SAFETY: see `builder`.
    let builder = unsafe { &mut *builder(directive)? };
    builder.line(directive.name(), directive.args()).map_err(|error| refuse(directive, &error))
}

/// `any`, `all`, `not`, `degraded`
pub fn group(directive: &Directive) -> Result {
    let builder = builder(directive)?;
    // SAFETY: see `builder`; this borrow and the next end before and begin after the group's lines are read.
    unsafe { &mut *builder }.open(directive.name()).map_err(|error| refuse(directive, &error))?;
    inside(directive, builder)?;
    // SAFETY: as above.
    unsafe { &mut *builder }.close().map_err(|error| refuse(directive, &error))
}

/// Reads the lines of a block with `builder` for their setters.
fn inside(directive: &Directive, builder: *mut Builder) -> Result {
    let cf = directive.cf();
    // SAFETY: `cf` is the parser state nginx passed to the setter, restored as the core's own blocks do; the
    // builder outlives the parsing of the block.
    let read = unsafe {
        let saved = *cf;
        (*cf).cmd_type = M as usize;
        (*cf).handler = None;
        (*cf).handler_conf = builder.cast();
        let read = sys::ngx_conf_parse(cf, core::ptr::null_mut());
        *cf = saved;
        read
    };
    if read == CONF_OK { Ok(()) } else { Err(ConfError::Logged) }
}

/// The block's builder. Valid while the block is read; nobody else borrows it while a setter of a line runs,
/// because setters of blocks hold no borrow while their lines are read.
fn builder(directive: &Directive) -> Result<*mut Builder> {
    // SAFETY: `cf` is the parser state nginx passed to the setter. Only `inside` sets the command type that
    // lets nginx call these setters, and it sets `handler_conf` with it.
    let builder = unsafe { (*directive.cf()).handler_conf.cast::<Builder>() };
    if builder.is_null() { Err(ConfError::Other("is not allowed here".to_owned())) } else { Ok(builder) }
}

/// The builder's messages name the directive themselves.
fn refuse(directive: &Directive, error: &MatchError) -> ConfError {
    complain(directive.cf(), format_args!("{error}"));
    ConfError::Logged
}
