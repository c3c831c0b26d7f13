//! Snapshots as documents: the parts that several resources share.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::nginx::traffic::snapshot::{Histogram, Responses};
use crate::policy::traffic::RESPONSE;

/// Pairs as an object, in their order.
pub struct Map<K, V>(pub Vec<(K, V)>);

impl<K, V> Map<K, V> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Serialize, V: Serialize> Serialize for Map<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Things by name, each as the document that `of` makes of it.
pub fn by_name<'a, T, D>(things: &'a [(String, T)], of: impl Fn(&'a T) -> D) -> Map<&'a str, D> {
    Map(things.iter().map(|(name, thing)| (name.as_str(), of(thing))).collect())
}

/// The one of this name.
pub fn named<'a, T>(things: &'a [(String, T)], name: &str) -> Option<&'a T> {
    things.iter().find(|(its, _)| its == name).map(|(_, thing)| thing)
}

impl Serialize for Responses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        struct Codes<'a>(&'a [(u16, u64)]);
        impl Serialize for Codes<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(code, count)| (code, count)))
            }
        }
        let mut map = serializer.serialize_map(Some(CLASSES.len() + 2))?;
        for (class, count) in CLASSES.iter().zip(&self.classes) {
            map.serialize_entry(class, count)?;
        }
        map.serialize_entry("codes", &Codes(&self.codes))?;
        map.serialize_entry("total", &self.total)?;
        map.end()
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Buckets<'a>(&'a [u64; 15]);
        impl Serialize for Buckets<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(self.0.len()))?;
                for (bound, count) in RESPONSE.iter().zip(self.0) {
                    map.serialize_entry(bound, count)?;
                }
                map.serialize_entry("inf", &self.0[RESPONSE.len()])?;
                map.end()
            }
        }
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("count", &self.count)?;
        map.serialize_entry("sum", &self.sum)?;
        map.serialize_entry("buckets", &Buckets(&self.buckets))?;
        map.end()
    }
}
