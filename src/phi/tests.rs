use proptest::prelude::*;
use serde_json::json;

use super::*;

fn scrubber() -> Scrubber {
    Scrubber::new([7; 32])
}

/// The text with the keyed part of each tag left out: `[SSN]`.
fn shape(text: &str) -> String {
    let out = scrubber().text(text);
    let mut shape = String::new();
    let mut rest = out.as_str();
    while let Some((before, after)) = rest.split_once('#') {
        shape.push_str(before);
        if after.get(..5).is_some_and(|tag| tag.ends_with(']')) {
            rest = &after[4..];
        } else {
            shape.push('#');
            rest = after;
        }
    }
    shape + rest
}

#[test]
fn identifiers_are_replaced() {
    for (text, want) in [
        ("\"123-45-6789\" is not valid at Intake(Patient Lopez)", "\"[SSN]\" is not valid at Intake(Patient [NAME])"),
        ("ssn=123456789", "ssn=[SSN]"),
        ("call (217) 555-0142 or 217-555-0143", "call [PHONE] or [PHONE]"),
        ("SMS to 12175550142 failed", "SMS to [PHONE] failed"),
        ("mail to jane.doe@example.com", "mail to [EMAIL]"),
        ("sent to jane%40example.com", "sent to [EMAIL]"),
        ("card 4111 1111 1111 1111 declined", "card [CARD] declined"),
        ("DOB: 01/02/1950", "DOB: [DATE]"),
        ("born 16 February 1934", "born [DATE]"),
        ("MRN: 00123456", "MRN: [MRN]"),
        ("chart PT3862551 locked", "chart [MRN] locked"),
        ("patient id 77123", "patient id [MRN]"),
        ("acct 912425089 overdue", "acct [ACCOUNT] overdue"),
        ("member AET163452522 denied", "member [PLAN] denied"),
        ("key coverage.mbi 1EG4-TE5-MK73", "key coverage.mbi [PLAN]"),
        ("driver's license no. D123-4567", "driver's license no. [LICENSE]"),
        ("DEA=AB1234563", "DEA=[LICENSE]"),
        ("provider 1234567893", "provider [NPI]"),
        ("91 yo transported", "[AGE] transported"),
        ("mail to 9043 Saul St, Binghamton 89623", "mail to [ADDRESS]"),
        ("PatientName=DOE^JANE PatientID=12345", "PatientName=[NAME] PatientID=[MRN]"),
        ("patient=Mitchell, Dana dob=1958-05-01", "patient=[NAME] dob=[DATE]"),
        ("Patient: Siobhán O'Connor, room 4", "Patient: [NAME], room 4"),
        ("Superbill Holcomb, Adan.docx printed", "Superbill [NAME].docx printed"),
        ("E:\\PatientFiles\\Dagny_Vasquez\\x.dcm", "E:\\PatientFiles\\[NAME]\\x.dcm"),
        ("C:\\Users\\jsmith\\x and /home/mgarcia/y", "C:\\Users\\[USER]\\x and /home/[USER]/y"),
        ("DETAIL: Key (mrn)=(00123456) already exists", "DETAIL: Key (mrn)=([MRN]) already exists"),
        ("<PatientName>Doe, Jane</PatientName>", "<PatientName>[NAME]</PatientName>"),
        ("https://portal.example/reset/cf0ffa3960cd2a05", "[URL]"),
        ("(0010,0010) PN [DOE^JANE]", "(0010,0010) PN [[NAME]]"),
        ("NM1*IL*1*DOE*JANE****MI*W123456789~", "NM1*IL*1*[NAME]*[NAME]****MI*[PLAN]~"),
        (
            "POST {\"resourceType\":\"Patient\",\"family\":\"Ib\"}",
            "POST {\"family\":\"[NAME]\",\"resourceType\":\"Patient\"}",
        ),
        ("12 Oak Ridge Dr,Peoria,IL,61604", "[ADDRESS]"),
        ("D:\\Charts\\IBARRA_MARISOL_19800214\\a.docx", "D:\\Charts\\[NAME]_[DATE]\\a.docx"),
        ("PID|1||X9^5||JONES^W||19610615|M", "PID|1||[MRN]||[NAME]||[DATE]|M"),
    ] {
        assert_eq!(shape(text), want);
    }
}

#[test]
fn a_proof_makes_shapes_beside_it_identifiers() {
    assert_eq!(shape("Conley, Elinore born 10-14-1934 booked 06/01/25"), "[NAME] born [DATE] booked [DATE]");
    assert_eq!(shape("reset sent to a@b.org from 68.154.184.138"), "reset sent to [EMAIL] from [IP]");
    assert_eq!(shape("reset sent from 68.154.184.138 for 06/01/25"), "reset sent from 68.154.184.138 for 06/01/25");
}

#[test]
fn what_operators_need_stays() {
    for text in [
        "2026-06-09 20:06:43,971 ERROR x[1548]: code 429121 after 85681707 bytes, uptime 1234567890s, since 1718030000",
        "7/7/2026 1:51:16 PM Security 4624 Logon Type 3 Account SRV-DC$ Source 172.16.2.91 Port 52056",
        "GUID 550e8400-e29b-41d4-a716-446655440000 SID S-1-5-21-3623811015-3361044348-30300820-1013",
        "sha256=620563eac5c3a34ad61964098f396a41ffcfc8ef9ff34bc0a77d1dd865936b3a",
        "164.312(a)(1) and 164.312(e)(2)(ii) for RB-WIN-PATCH-001, KB5054612, CVE-2024-3094, NIST SP 800-53",
        "/etc/ssh/sshd_config.d/10-malachor.conf changed, user@1000.service restarted, /srv/patients is 88% full",
        "Patient Portal Service entered the running state; patientportal.service: Deactivated successfully.",
        "hmac-sha2-256-etm@openssh.com offered by 10.0.0.5:22",
        "INFO ticket 800-53-3492 closed part no BX7256601 qty 4",
        "Defender 2000 signature version updated to 1.420351.0 engine 1.1.6129.6",
        "Room 5 AP offline. Will retry. May ring. Mark complete. Windows Server 2022 Standard",
        "/home/malachor/state and C:\\Users\\Public\\Desktop",
        "patient=none ssn=*** dob=null",
    ] {
        assert_eq!(scrubber().text(text), text);
    }
}

#[test]
fn equal_identifiers_have_equal_tags_under_one_key_only() {
    let text = "123-45-6789 and 123 45 6789";
    let (one, two) = (scrubber().text(text), Scrubber::ephemeral([8; 32]).text(text));
    let tags: Vec<&str> = one.split(" and ").collect();
    assert_eq!(tags[0], tags[1]);
    assert_ne!(one, two);
}

#[test]
fn json_is_read_by_member() {
    let given = json!({"mrn": 4_485_376, "unit": {"name": "cron.service"}, "patient": {"name": "Zoltan K", "id": 8}});
    let got = scrubber().scrub(given).into_inner();
    assert_eq!(got["unit"]["name"], "cron.service");
    for place in ["/mrn", "/patient/name", "/patient/id"] {
        let tag = got.pointer(place).and_then(serde_json::Value::as_str).unwrap_or_default();
        assert!(tag.starts_with('['), "{place} is {tag}");
    }
}

#[test]
fn json_text_stays_json() {
    for text in [
        r#"{"mrn": 4485376, "n": [1, 2]}"#,
        "{\n  \"dob\": \"1950-01-01\",\n  \"ssn\": 123456789\n}\n",
        r#"{"ssn":123456789,"ssn":"x"}"#,
        r#""patient: Jane Doe\n""#,
        r#"{"msg":"{\"ssn\":\"123-45-6789\",\"acct\":123456}"}"#,
    ] {
        let out = scrubber().text(text);
        assert_ne!(out, text);
        assert!(json::is_valid(&out), "{out}");
        assert!(!out.contains("6789") && !out.contains("4485376") && !out.contains("Doe"), "{out}");
    }
}

#[test]
fn over_long_text_is_dropped() {
    let long = "a".repeat(MAX_TEXT + 1);
    assert_eq!(scrubber().text(&long), "[DROPPED#65537]");
    assert_eq!(scrubber().text("[DROPPED#65537]"), "[DROPPED#65537]");
}

/// Text made of the pieces that rules look for, so that rules meet each other.
fn loggish() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}",
        "[A-Z][a-zé]{1,6}[ ,_^]{1,2}[A-Z][a-z]{1,6}",
        "(patient|ssn|mrn|dob|acct|DEA|born|chart|member|name|phone|PID\\|)[ =:\"|]{1,2}",
        "[0-9]{1,4}[/.-][0-9]{1,2}[/.-][0-9]{1,4}",
        "[a-z]{1,5}@[a-z]{1,5}\\.(com|org|service)",
        "[0-9]{5,17}",
        "/home/[a-z]{1,6}|C:\\\\Users\\\\[a-zA-Z]{1,6}",
        "\\[(SSN|NAME)#[a-z2-7]{4}\\]",
        "[\\[\\](){}<>\"',;:#=~*\\\\ \n\r-]{1,3}",
        "\\PC{0,6}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        loggish().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
    ];
    let name = prop_oneof![Just("ssn".to_owned()), Just("patient".to_owned()), Just("name".to_owned()), loggish()];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_second_pass_changes_nothing(text in loggish()) {
        let once = scrubber().text(&text);
        prop_assert_eq!(scrubber().text(&once), once);
    }

    #[test]
    fn any_text_is_read(text in "\\PC{0,200}") {
        let once = scrubber().text(&text);
        prop_assert_eq!(scrubber().text(&once), once);
    }

    #[test]
    fn valid_json_stays_valid(value in json_value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let out = scrubber().text(&text);
        prop_assert!(json::is_valid(&out) || value.is_number(), "{}", out);
        prop_assert_eq!(scrubber().text(&out), out);
    }

    #[test]
    fn values_scrub_once(value in json_value()) {
        let once = value.scrub(&scrubber());
        prop_assert_eq!(once.clone().scrub(&scrubber()), once);
    }

    #[test]
    fn a_labelled_identifier_never_survives(
        before in "[a-z ]{0,20}", area in 1u32..666, group in 1u32..100, serial in 1u32..10000, after in "[a-z ]{0,20}",
    ) {
        let ssn = format!("{area:03}-{group:02}-{serial:04}");
        let out = scrubber().text(&format!("{before} ssn: {ssn} {after}"));
        prop_assert!(!out.contains(&ssn));
    }
}
