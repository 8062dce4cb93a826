//! Canonical Extended JSON v2, in which a dump keeps options and indexes: every type, and the order of keys,
//! comes back as it was.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mongodb::bson::raw::{RawBsonRef, RawDocument};

/// The bytes are no BSON.
#[derive(Debug, thiserror::Error)]
#[error("the server has given a description that is no BSON")]
pub(super) struct NoBson;

/// Adds `document` to `json`.
pub(super) fn document(json: &mut String, document: &RawDocument) -> Result<(), NoBson> {
    json.push('{');
    for (at, element) in document.iter().enumerate() {
        let (key, value) = element.map_err(|_| NoBson)?;
        if at > 0 {
            json.push(',');
        }
        text(json, key.as_ref());
        json.push(':');
        self::value(json, value)?;
    }
    json.push('}');
    Ok(())
}

/// Adds a string.
pub(super) fn text(json: &mut String, text: &str) {
    json.push_str(&serde_json::Value::from(text).to_string());
}

fn value(json: &mut String, value: RawBsonRef<'_>) -> Result<(), NoBson> {
    match value {
        RawBsonRef::String(string) => text(json, string),
        RawBsonRef::Boolean(boolean) => json.push_str(if boolean { "true" } else { "false" }),
        RawBsonRef::Null => json.push_str("null"),
        RawBsonRef::Document(inner) => document(json, inner)?,
        RawBsonRef::Array(values) => {
            json.push('[');
            for (at, inner) in values.into_iter().enumerate() {
                if at > 0 {
                    json.push(',');
                }
                self::value(json, inner.map_err(|_| NoBson)?)?;
            }
            json.push(']');
        }
        RawBsonRef::Double(number) => wrapped(json, "$numberDouble", &double(number)),
        RawBsonRef::Int32(number) => wrapped(json, "$numberInt", &number.to_string()),
        RawBsonRef::Int64(number) => wrapped(json, "$numberLong", &number.to_string()),
        RawBsonRef::Decimal128(number) => wrapped(json, "$numberDecimal", &number.to_string()),
        RawBsonRef::ObjectId(id) => wrapped(json, "$oid", &id.to_hex()),
        RawBsonRef::Symbol(symbol) => wrapped(json, "$symbol", symbol),
        RawBsonRef::JavaScriptCode(code) => wrapped(json, "$code", code),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            json.push_str("{\"$code\":");
            text(json, code.code);
            json.push_str(",\"$scope\":");
            document(json, code.scope)?;
            json.push('}');
        }
        RawBsonRef::DateTime(time) => {
            add(json, format_args!("{{\"$date\":{{\"$numberLong\":\"{}\"}}}}", time.timestamp_millis()));
        }
        RawBsonRef::Timestamp(at) => {
            add(json, format_args!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", at.time, at.increment));
        }
        RawBsonRef::Binary(binary) => {
            let (bytes, kind) = (STANDARD.encode(binary.bytes), u8::from(binary.subtype));
            add(json, format_args!("{{\"$binary\":{{\"base64\":\"{bytes}\",\"subType\":\"{kind:02x}\"}}}}"));
        }
        RawBsonRef::RegularExpression(regex) => {
            json.push_str("{\"$regularExpression\":{\"pattern\":");
            text(json, regex.pattern.as_ref());
            json.push_str(",\"options\":");
            text(json, regex.options.as_ref());
            json.push_str("}}");
        }
        RawBsonRef::Undefined => json.push_str("{\"$undefined\":true}"),
        RawBsonRef::MinKey => json.push_str("{\"$minKey\":1}"),
        RawBsonRef::MaxKey => json.push_str("{\"$maxKey\":1}"),
        // Long deprecated, and in no option or index.
        RawBsonRef::DbPointer(_) => return Err(NoBson),
    }
    Ok(())
}

fn wrapped(json: &mut String, key: &str, inner: &str) {
    add(json, format_args!("{{\"{key}\":"));
    text(json, inner);
    json.push('}');
}

fn add(json: &mut String, what: std::fmt::Arguments<'_>) {
    json.write_fmt(what).expect("a string takes all that is written");
}

fn double(number: f64) -> String {
    match number {
        _ if number.is_nan() => "NaN".to_owned(),
        _ if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        // With a point or an exponent, so that it is a double for every reader.
        _ => format!("{number:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{Binary, DateTime, RawBson, Regex, Timestamp, oid::ObjectId, rawdoc};

    #[test]
    fn every_type_keeps_what_it_is_and_keys_keep_their_order() {
        let binary = Binary { subtype: BinarySubtype::Uuid, bytes: vec![1, 2, 3] };
        let all = rawdoc! {
            "z": 1, "a": -1i64, "d": 1.0, "e": f64::NEG_INFINITY, "s": "q\"\n\u{e9}", "b": true, "n": RawBson::Null,
            "o": { "y": [1, "x"] }, "i": ObjectId::from_bytes([7; 12]), "t": DateTime::from_millis(-5),
            "u": binary, "ts": Timestamp { time: 3, increment: 4 },
            "r": Regex { pattern: "^a".try_into().expect("fits"), options: "i".try_into().expect("fits") },
            "min": RawBson::MinKey,
        };
        let mut json = String::new();
        document(&mut json, &all).expect("it is BSON");
        let expected = concat!(
            r#"{"z":{"$numberInt":"1"},"a":{"$numberLong":"-1"},"d":{"$numberDouble":"1.0"},"#,
            r#""e":{"$numberDouble":"-Infinity"},"s":"q\"\n"#,
            "\u{e9}",
            r#"","b":true,"n":null,"o":{"y":[{"$numberInt":"1"},"x"]},"i":{"$oid":"070707070707070707070707"},"#,
            r#""t":{"$date":{"$numberLong":"-5"}},"u":{"$binary":{"base64":"AQID","subType":"04"}},"#,
            r#""ts":{"$timestamp":{"t":3,"i":4}},"r":{"$regularExpression":{"pattern":"^a","options":"i"}},"#,
            r#""min":{"$minKey":1}}"#
        );
        assert_eq!(json, expected);
    }
}
