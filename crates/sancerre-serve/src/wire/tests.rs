//! Parsers of what a client sends, over any bytes.

use proptest::prelude::*;

use super::*;

#[test]
fn a_request_is_read_as_it_was_written() {
    let bytes = [
        &REQUEST_MAGIC.to_be_bytes()[..],
        &command::FLAG_DF.to_be_bytes(),
        &command::READ.to_be_bytes(),
        &7_u64.to_be_bytes(),
        &4096_u64.to_be_bytes(),
        &512_u32.to_be_bytes(),
    ]
    .concat();
    let read = request(bytes.as_slice().try_into().unwrap()).unwrap();
    let expected = ClientRequest {
        flags: command::FLAG_DF,
        command: command::READ,
        cookie: 7,
        offset: 4096,
        length_bytes: 512,
    };
    assert_eq!(read, expected);
}

#[test]
fn what_an_option_asks_is_read_to_its_end() {
    let go =
        [&counted("disk0")[..], &2_u16.to_be_bytes(), &3_u16.to_be_bytes(), &1_u16.to_be_bytes()].concat();
    assert_eq!(info_request(&go), Ok(("disk0", true)));
    assert!(info_request(&go[..go.len() - 1]).is_err());
    assert!(info_request(&[&go[..], &[0]].concat()).is_err());
    let queries = [&counted("")[..], &2_u32.to_be_bytes(), &counted("base:"), &counted(ALLOCATION)].concat();
    assert_eq!(context_queries(&queries), Ok(("", vec!["base:", ALLOCATION])));
    let many = [&counted("")[..], &u32::MAX.to_be_bytes()].concat();
    assert!(context_queries(&many).is_err());
    assert!(export_name(&[b'x'; 4097]).is_err());
    assert!(export_name(&[0xff]).is_err());
}

#[test]
fn an_error_fits_its_piece() {
    let long = "é".repeat(5000);
    let bytes = piece(1, true, &ReplyPiece::Error(errno::IO, long, Some(9)));
    let length = u32::from_be_bytes(bytes[16..20].try_into().unwrap()) as usize;
    assert_eq!(bytes.len(), 20 + length);
    let text = u16::from_be_bytes(bytes[24..26].try_into().unwrap()) as usize;
    assert_eq!(length, 4 + 2 + text + 8);
    assert!(std::str::from_utf8(&bytes[26..26 + text]).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_of_a_client_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (export_name(&bytes), info_request(&bytes), context_queries(&bytes));
        if let Some(head) = bytes.first_chunk::<28>() {
            let _ = request(head);
        }
        if let Some(head) = bytes.first_chunk::<16>() {
            let _ = option_head(head);
        }
        if let Some(flags) = bytes.first_chunk::<4>() {
            let _ = client_flags(*flags);
        }
    }
}
