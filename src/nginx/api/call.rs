//! What a resource is asked, and what it answers.

use serde::Serialize;
use serde_json::Value;

use super::super::later;
use super::super::request::Request;
use crate::policy::api::{Failure, Method, Query, Shape, text};

/// A request to the API.
pub struct Call<'r> {
    pub method: Method,
    /// The segments of the path behind the version, decoded.
    pub path: Vec<Vec<u8>>,
    pub query: Query,
    /// The body, if there was one.
    pub body: Option<Value>,
    /// Who asks.
    pub request: &'r Request,
}

/// What becomes of a call.
pub type Outcome = Result<Answer, Failure>;

/// An answer.
pub enum Answer {
    /// A status and a JSON document.
    Document(u16, Vec<u8>),
    /// 204
    Nothing,
    /// It will come through the call's ticket, to [`resume`](super::resume).
    Later,
}

impl Answer {
    /// Any document, whatever `fields` says.
    pub fn document<T: Serialize + ?Sized>(status: u16, document: &T) -> Outcome {
        let bytes = serde_json::to_vec(document).map_err(|_| Failure::internal("document not written"))?;
        Ok(Self::Document(status, bytes))
    }
}

impl Call<'_> {
    /// A document of one thing.
    pub fn object<T: Serialize + ?Sized>(&self, document: &T) -> Outcome {
        self.chosen(document, Shape::Object)
    }

    /// A document whose members are things of one kind by name.
    pub fn collection<T: Serialize + ?Sized>(&self, document: &T) -> Outcome {
        self.chosen(document, Shape::Collection)
    }

    /// A list of things of one kind.
    pub fn list<T: Serialize + ?Sized>(&self, document: &T) -> Outcome {
        self.chosen(document, Shape::List)
    }

    fn chosen<T: Serialize + ?Sized>(&self, document: &T, shape: Shape) -> Outcome {
        let answer = Answer::document(200, document)?;
        Ok(match (self.query.fields(), answer) {
            (Some(fields), Answer::Document(status, whole)) => {
                Answer::Document(status, fields.apply(&whole, shape))
            }
            (_, answer) => answer,
        })
    }

    /// Who asks, for those who read of it later: the address, and before it the name of `auth_basic`.
    pub fn who(&self) -> String {
        // SAFETY: a live request; both texts live as long as it does.
        let (user, address) = unsafe {
            let r = self.request.as_ptr();
            (text((*r).headers_in.user.as_bytes()), text((*(*r).connection).addr_text.as_bytes()))
        };
        if user.is_empty() { address } else { format!("{user} at {address}") }
    }

    /// A ticket for an answer that will come later.
    pub fn ticket(&self) -> Result<u64, Failure> {
        later::ticket(self.request).ok_or_else(|| Failure::internal("the request cannot wait"))
    }

    /// What a resource that can only be looked at answers.
    pub fn get(&self, answer: impl FnOnce() -> Outcome) -> Outcome {
        match self.method {
            Method::Get => answer(),
            _ => Err(Failure::method("GET, HEAD")),
        }
    }

    /// What a resource answers whose counters may be reset.
    pub fn get_or_reset(&self, answer: impl FnOnce() -> Outcome, reset: impl FnOnce()) -> Outcome {
        match self.method {
            Method::Get => answer(),
            Method::Delete => {
                reset();
                Ok(Answer::Nothing)
            }
            _ => Err(Failure::method("GET, HEAD, DELETE")),
        }
    }
}
