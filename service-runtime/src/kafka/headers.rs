//! Headers as the bytes that they are. By Kafka's protocol their names are UTF-8, but no broker checks that, and rdkafka
//! panics when it reads another name: one such record ended the process, at each start anew. So names are read and
//! written here, as bytes.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::slice;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Header, OwnedHeaders};
use rdkafka_sys::{rd_kafka_header_add, rd_kafka_header_get_all, rd_kafka_message_headers};

/// A record's headers, in order: names and values. A missing value reads as an empty one, and a name ends at its first
/// NUL.
pub type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// The headers of a record, and what is wrong with them, if anything is: a service sets such a record aside.
#[expect(
    unsafe_code,
    reason = "rdkafka 0.39 has no way to read a header's name but as a str, and panics at other bytes"
)]
pub(super) fn read(message: &BorrowedMessage<'_>) -> (Headers, Option<String>) {
    let (mut headers, mut list) = (Headers::new(), ptr::null_mut());
    // SAFETY: the message is alive while it is borrowed. The list belongs to it.
    let found = unsafe { rd_kafka_message_headers(message.ptr(), &raw mut list) };
    match RDKafkaErrorCode::from(found) {
        RDKafkaErrorCode::NoError => {}
        RDKafkaErrorCode::NoEnt => return (headers, None),
        error => return (headers, Some(format!("its headers can't be read: {error}"))),
    }
    loop {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        let at = headers.len();
        // SAFETY: the list was just returned for a message that is still alive. An index behind its end is reported.
        let found = unsafe { rd_kafka_header_get_all(list, at, &raw mut name, &raw mut value, &raw mut size) };
        if RDKafkaErrorCode::from(found) != RDKafkaErrorCode::NoError {
            break;
        }
        // SAFETY: librdkafka ends names with a NUL, and a value that is not null has `size` bytes. Both are copied
        // while the message is alive.
        headers.push(unsafe {
            let value = if value.is_null() { &[][..] } else { slice::from_raw_parts(value.cast::<u8>(), size) };
            (CStr::from_ptr(name).to_bytes().to_vec(), value.to_vec())
        });
    }
    let flaw = headers.iter().find(|(name, _)| str::from_utf8(name).is_err());
    let flaw = flaw.map(|(name, _)| format!("the header name \"{}\" is not UTF-8", name.escape_ascii()));
    (headers, flaw)
}

/// Adds a header, whatever bytes its name has.
pub(super) fn add(headers: OwnedHeaders, name: &[u8], value: &[u8]) -> OwnedHeaders {
    match str::from_utf8(name) {
        Ok(key) => headers.insert(Header { key, value: Some(value) }),
        Err(_) => add_bytes(headers, name, value),
    }
}

#[expect(unsafe_code, reason = "rdkafka 0.39 takes names as str only")]
fn add_bytes(headers: OwnedHeaders, name: &[u8], value: &[u8]) -> OwnedHeaders {
    let list = ptr::from_ref(headers.as_borrowed()).cast_mut().cast();
    // SAFETY: `BorrowedHeaders` has no contents: a reference to it is librdkafka's own pointer to the list, which
    // `headers` owns. Name and value are copied.
    unsafe {
        rd_kafka_header_add(
            list,
            name.as_ptr().cast::<c_char>(),
            name.len().cast_signed(),
            value.as_ptr().cast::<c_void>(),
            value.len().cast_signed(),
        );
    }
    headers
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;

    #[test]
    fn headers_with_and_without_a_utf8_name_go_into_one_list() {
        let headers = add(add(OwnedHeaders::new(), b"Jos\xe9", b"1"), "José".as_bytes(), b"2");
        assert_eq!(headers.count(), 2);
        assert_eq!(headers.get(1), Header { key: "José", value: Some(&b"2"[..]) });
    }
}
