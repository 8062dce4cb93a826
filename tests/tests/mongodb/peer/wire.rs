//! The wire: a document for each that is asked, as servers of MongoDB 3.6 and later speak (`OP_MSG`), and the first
//! greeting as those before did (`OP_QUERY`).

use std::io::{Read, Write};
use std::sync::Arc;

use mongodb::bson::{Document, RawDocumentBuf};

use super::Script;

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;
const HEADER: usize = 16;

impl Script {
    /// Until the driver hangs up.
    pub(super) fn serve(self: &Arc<Self>, mut stream: impl Read + Write) {
        loop {
            let mut header = [0; HEADER];
            if stream.read_exact(&mut header).is_err() {
                return;
            }
            let number = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let (length, id, code) = (number(0), number(4), number(12));
            let mut body = vec![0; usize::try_from(length).expect("a length") - HEADER];
            if stream.read_exact(&mut body).is_err() {
                return;
            }
            // The one document that is asked with: behind flags and a kind, or flags, a name and two numbers.
            let from = match code {
                OP_MSG => 5,
                OP_QUERY => 4 + body[4..].iter().position(|byte| *byte == 0).expect("a name") + 1 + 8,
                other => panic!("no driver asks by {other}"),
            };
            let end =
                from + u32::from_le_bytes(body[from..from + 4].try_into().expect("four bytes")) as usize;
            let asked = RawDocumentBuf::from_bytes(body[from..end].to_vec()).expect("a document");
            let asked = Document::try_from(&*asked).expect("a document");
            let answer = self.answer(&asked);
            if answer.is_empty() {
                return;
            }
            let answer = RawDocumentBuf::try_from(answer).expect("a document").into_bytes();
            let (code, before): (i32, Vec<u8>) = match code {
                OP_MSG => (OP_MSG, vec![0; 5]),
                _ => (OP_REPLY, [&[0; 16][..], &1_i32.to_le_bytes()].concat()),
            };
            let length = i32::try_from(HEADER + before.len() + answer.len()).expect("short");
            let header = [length, 1, id, code].map(i32::to_le_bytes).concat();
            if stream.write_all(&[header, before, answer].concat()).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }
}
