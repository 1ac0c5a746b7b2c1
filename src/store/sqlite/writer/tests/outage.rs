//! What the log has of a disk that refuses.

use super::*;
use crate::log::Log;

fn turn(file: &File, writer: &mut Writer<'_>) -> bool {
    file.clock.advance(RETRY_AFTER);
    let mut batch = mem::take(&mut writer.again);
    writer.turn(&mut batch, Joining::Until(BATCH_MAX))
}

#[test]
fn an_outage_is_told_of_at_once_then_seldom_and_once_when_it_is_over() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let (charge, mut answer) = record(&writer);
    writer.again.push(charge);
    let (log, _logged) = Log::begin();
    file.connection
        .execute_batch("PRAGMA query_only = ON")
        .unwrap();
    assert!(!turn(&file, &mut writer));
    assert_eq!(log.count("can't write"), 1, "{}", log.text());
    for _ in 0..400 {
        assert!(!turn(&file, &mut writer));
    }
    assert_eq!(log.count("can't write"), 3, "at once, and each ten seconds");
    assert_eq!(log.count("left_out=199"), 2, "{}", log.text());
    assert_eq!(log.count("can write again"), 0);

    file.connection
        .execute_batch("PRAGMA query_only = OFF")
        .unwrap();
    for _ in 0..3 {
        assert!(turn(&file, &mut writer));
    }
    answer.try_recv().unwrap().unwrap();
    assert_eq!(log.count("can't write"), 3);
    assert_eq!(log.count("can write again"), 1, "{}", log.text());
}

/// Of one charge that can't be written, while all others are.
#[test]
fn what_the_file_refuses_for_good_is_no_outage_that_ends() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let broken = hold(&mut writer);
    let refuse =
        "CREATE TRIGGER refuse BEFORE INSERT ON usage BEGIN SELECT RAISE(ABORT, 'no'); END";
    let (log, _logged) = Log::begin();
    file.connection.execute_batch(refuse).unwrap();
    settle(&mut writer, broken).unwrap_err();
    assert_eq!(log.count("can't write"), 1, "{}", log.text());
    let _other = hold(&mut writer);
    assert_eq!(writer.apart.len(), 1, "it still can't be written");
    assert_eq!(log.count("can write again"), 0, "{}", log.text());
}
