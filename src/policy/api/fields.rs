//! `fields=a,b`: less of an answer.

use serde_json::{Map, Value};

/// Where in a document the members stand that `fields` chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// In the document itself.
    Object,
    /// In each member of it; without any name, the names of the members are all that is left.
    Collection,
    /// In each element.
    List,
}

/// The members a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(Vec<String>);

impl Fields {
    /// The value of the argument: names with commas between.
    pub fn parse(text: &str) -> Self {
        Self(text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// The document without what was not asked for.
    pub fn apply(&self, document: Value, shape: Shape) -> Value {
        match (document, shape) {
            (Value::Object(members), Shape::Collection) if self.0.is_empty() => {
                members.into_iter().map(|(name, _)| Value::String(name)).collect()
            }
            (Value::Object(members), Shape::Collection) => {
                let less = |(name, value)| (name, self.pick(value));
                Value::Object(members.into_iter().map(less).collect())
            }
            (Value::Array(elements), Shape::List) => elements.into_iter().map(|one| self.pick(one)).collect(),
            (document, _) => self.pick(document),
        }
    }

    fn pick(&self, value: Value) -> Value {
        let Value::Object(members) = value else { return value };
        let wanted = |(name, _): &(String, Value)| self.0.contains(name);
        Value::Object(members.into_iter().filter(wanted).collect::<Map<_, _>>())
    }
}
