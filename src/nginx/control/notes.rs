//! Why breakers were overruled, and by whom.

use super::super::breaker;
use super::super::conf::MainConf;
use super::super::sys::now;
use super::hash;
use crate::shared::control::{Key, Kind, Note, Table};

fn key(about: &str) -> Key {
    hash(&format!("breaker\0{about}"))
}

/// What was said when a breaker was overruled last. `about` is what logs call it.
pub fn get(main: &MainConf, about: &str) -> Option<Note> {
    main.control.table()?.find(Kind::Breaker, key(about))?.note()
}

/// Keeps why a breaker is overruled now, or that it is not.
pub fn set(main: &MainConf, about: &str, said: Option<(&str, &str)>) {
    let key = key(about);
    main.control.alone(|table| match said {
        Some((reason, by)) => {
            // Without room the reason is in the event log all the same.
            if let Some(record) = table.claim(Kind::Breaker, key, key) {
                let (reason, by) = (reason.to_owned(), by.to_owned());
                record.set_note(&Note { reason, by, at: now().wall });
            }
        }
        None => table.find(Kind::Breaker, key).into_iter().for_each(|record| record.free()),
    });
}

/// Says that this configuration has these breakers.
pub fn keep(main: &MainConf, table: &Table) {
    breaker::each_name(main, |name| {
        let key = key(name);
        if table.find(Kind::Breaker, key).is_some() {
            table.claim(Kind::Breaker, key, key);
        }
    });
}
