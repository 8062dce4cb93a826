//! The kept calls that are under way. They go to their end when their caller has gone, so that streams and
//! connections no longer count them: this does.
//!
//! Must stay true: no caller has more than its share of them; a call that has ended counts no longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::Failure;
use proto::failure::reason;
use tonic::Code;

use crate::audit::{Kind, Who};

/// As many as one connection may have.
const MOST: usize = 64;

/// Whose they are: somebody known is the same from everywhere, nobody is told apart by the address.
type Whose = (Kind, String);

/// All kept calls that are under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<HashMap<Whose, usize>>>);

impl UnderWay {
    /// Room for one more call of `who`, until it is dropped.
    pub(super) fn begin(&self, who: &Who) -> Result<Room, Failure> {
        let id = if who.kind == Kind::Nobody { &who.from } else { &who.id };
        let whose = (who.kind, id.clone());
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(whose.clone()).or_default();
        if *count >= MOST {
            return Err(Failure::new(
                Code::ResourceExhausted,
                reason::BUSY,
                "too many calls of this caller are under way",
            )
            .hint("try again when some of them have ended"));
        }
        *count += 1;
        Ok(Room { all: self.clone(), whose })
    }
}

/// Room for a call.
#[derive(Debug)]
pub(super) struct Room {
    all: UnderWay,
    whose: Whose,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_its_share_and_no_more() {
        let all = UnderWay::default();
        let who = |from: &str| Who {
            kind: Kind::Nobody,
            id: String::new(),
            name: String::new(),
            from: from.to_owned(),
        };
        let mut rooms: Vec<Room> = (0..MOST).map(|_| all.begin(&who("a")).expect("few")).collect();
        assert_eq!(all.begin(&who("a")).expect_err("its share").reason, reason::BUSY);
        let other = all.begin(&who("b")).expect("of another");
        rooms.pop();
        rooms.push(all.begin(&who("a")).expect("one has ended"));
        drop((rooms, other));
        assert!(all.0.lock().expect("no panic").is_empty());
    }
}
