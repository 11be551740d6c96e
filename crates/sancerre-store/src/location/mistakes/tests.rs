//! Locations of other programs, of templates and of people.

use super::*;

#[test]
fn what_other_programs_call_a_place_is_refused_with_what_was_meant() {
    let cases = [
        ("sftp:user@host:/srv/x", "sshfs user@host:/srv/x"),
        ("user@host:/srv/x", "sshfs user@host:/srv/x"),
        ("host:/srv/x", "sshfs host:/srv/x"),
        ("host:x", "sshfs host:x"),
        ("nas:/export", "mount -t nfs nas:/export"),
        ("user:secret@host:/srv/x", "mount it"),
        ("https://s3.eu-central-1.amazonaws.com/bucket/x", "s3://bucket/x with AWS_REGION=eu-central-1"),
        ("gcs://bucket/x", "gs://bucket/x"),
        ("azure://box/x", "az://box/x"),
        ("s3a://bucket/x", "s3://bucket/x"),
        ("[::1]:/x", "SSH"),
        ("s3:bucket/x", "s3://bucket/x is"),
        ("s3:https://minio:9000/bucket/x", "s3://bucket/x with AWS_ENDPOINT=https://minio:9000"),
        ("s3:s3.amazonaws.com/bucket/x", "s3://bucket/x with AWS_ENDPOINT=https://s3.amazonaws.com"),
        ("S3:bucket", "s3://bucket is"),
        ("b2:bucket:x", "s3://bucket/x with"),
        ("gs:bucket:/x", "gs://bucket/x"),
        ("azure:box:/x", "az://box/x"),
        ("rclone:remote:x", "rclone mount remote:x"),
        ("rest:http://me:secret@host:8000/", "not supported"),
        ("s3:http://me:secret@minio/bucket/x", "s3://bucket/x with AWS_ENDPOINT=http://"),
        ("swift:box:/x", "not supported"),
        ("file:rel", "the path alone, rel,"),
        ("file:/srv/x", "file:///srv/x"),
        ("C:/backup", "drive of Windows"),
        ("C:\\backup", "separated by /"),
        ("\\\\nas\\share", "mount -t cifs //nas/share"),
        ("//nas/share", "mount -t cifs //nas/share"),
    ];
    for (location, meant) in cases {
        let found = find(location).unwrap_or_else(|| panic!("{location} was taken"));
        assert!(found.contains(meant) && !found.contains("secret"), "{location}: {found}");
    }
}

#[test]
fn what_a_browser_calls_a_bucket_is_refused_with_its_region() {
    for (host, meant) in [
        ("bucket.s3", "s3://bucket/x with AWS_REGION is"),
        ("bucket.s3.eu-central-1", "s3://bucket/x with AWS_REGION=eu-central-1 is"),
    ] {
        let found = find(&format!("https://{host}{AMAZON}/x")).unwrap();
        assert!(found.contains(meant), "{found}");
    }
}

#[test]
fn what_nothing_replaced_is_refused() {
    for location in [
        "~",
        "~/backup",
        "~root/x",
        "$HOME/backup",
        "${HOME}/x",
        "/srv/$(hostname)/x",
        "/srv/$HOST",
        "%h/backup",
        "/srv/%H",
        "%USERPROFILE%/x",
        "/srv/my%20backup",
        "/srv/%%",
        " /srv/x",
        "/srv/x\n",
        "/srv/x\r",
        "\"/srv/x\"",
        "'/srv/x'",
        "`pwd`/x",
        "/srv/`hostname`",
        "\u{201c}/srv/x\u{201d}",
        "\"s3://bucket/x\"",
        "/srv/{{ repo }}",
        "{{repo}}",
        "s3://{{ bucket }}/x",
        "s3://$BUCKET/x",
        "<repo>",
        "/srv/<your repo>/x",
        "__REPO__",
        "/mnt/~/x",
        "SANCERRE_REPOSITORY=/x",
        "export SANCERRE_REPOSITORY=s3://b/x",
        "/srv/x\u{200b}",
    ] {
        assert!(find(location).is_some(), "{location:?}");
    }
}

#[test]
fn what_would_be_dropped_is_refused() {
    for location in [
        "s3://bucket/x?region=y",
        "s3://bucket/x#y",
        "s3://bucket/a/../b",
        "s3://bucket/a/%2E%2e/b",
        "s3://bucket/./b",
        "s3://key:secret@bucket/x",
        "s3://bucket:9000/x",
        "s3://bucket//x",
        "s3:///x",
        "s3://",
        "s3://localhost/b",
        "s3://s3.eu-central-1.amazonaws.com/b",
        "s3://10.0.0.1/b",
        "s3://https://h/b",
        "file://rel/x",
        "file:///srv/../x",
        "file:///",
        "file:////nas/share",
        "file:///a?b",
        "file:///a#b",
        "https://host/bucket",
        "sftp://host/x",
        "ssh://host/x",
        "rclone://x/y",
        "s3a://bucket/x",
        "s3://bucket\\x",
    ] {
        assert!(find(location).is_some(), "{location}");
    }
}

#[test]
fn what_is_a_place_here_is_taken() {
    for location in [
        "/srv/backup",
        "backup",
        ".",
        "..",
        "../x",
        "./a:b",
        "./~/backup",
        "/srv/a:b",
        "/srv/50%",
        "/srv/100% sure",
        "/srv/a$",
        "/srv/a$ b",
        "/srv//x",
        "s3://bucket",
        "s3://bucket/x/y",
        "s3://bucket.example/",
        "gs://b/x",
        "az://b/x",
        "file:///srv/x",
        "file://localhost/srv/x",
        "file:///srv/%24HOME",
        "S3://bucket/x",
        "/srv/~x",
        "/srv/__pycache",
        "/srv/a<b>",
        "/srv/it's",
        "/srv/{a}",
        "/srv/x=y",
        "/srv/@eaDir",
        "/a/-b",
    ] {
        assert_eq!(find(location), None, "{location}");
    }
}

#[test]
fn a_password_is_not_shown() {
    assert_eq!(shown("s3://key:secret@bucket/x"), "s3://***@bucket/x");
    assert_eq!(shown("s3://key:sec@ret@bucket"), "s3://***@bucket");
    assert_eq!(shown("me:secret@host:/x"), "me:***@host:/x");
    assert_eq!(shown("sftp:me:secret@host:/x"), "sftp:me:***@host:/x");
    assert_eq!(shown("sftp:me@host:/x"), "sftp:me@host:/x");
    for plain in ["/srv/a@b", "s3://bucket/a@b", "user@host:/x"] {
        assert_eq!(shown(plain), plain);
    }
}
