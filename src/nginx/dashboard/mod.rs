//! `dashboard`: one page that shows what the API knows, and does what it can.

mod handler;
mod page;

use std::rc::Rc;

use nginx_sys as sys;

use super::cf::{Directive, Result, set_once};
use super::{conf, content};
use page::Page;

/// `dashboard`
#[derive(Default)]
pub struct LocConf {
    page: Option<Rc<Page>>,
}

impl LocConf {
    /// What is served here.
    pub fn page(&self) -> Option<&Page> {
        self.page.as_deref()
    }

    /// `if` and `limit_except` have configurations of their own within a location, and the same page; locations inside have
    /// not.
    pub fn merge(&mut self, prev: &Self, cf: *mut sys::ngx_conf_t) {
        if prev.page.is_some() && content::inherit(cf, handler::content) {
            self.page = prev.page.clone();
        }
    }
}

/// `dashboard [api=PATH]`
pub fn dashboard(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let mut api = "/api";
    for param in directive.params(0)? {
        match param.name {
            "api" => {
                let path = param.value()?;
                api = Some(path.strip_suffix('/').unwrap_or(path))
                    .filter(|path| page::is_path(path))
                    .ok_or_else(|| param.invalid("a path such as /api"))?
            }
            _ => return Err(param.unknown()),
        }
    }
    set_once(&mut conf.dashboard.page, Rc::new(Page::new(api)))?;
    content::serve(directive.cf(), handler::content)
}
