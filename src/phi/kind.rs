//! What an identifier is, in the order of the Safe Harbor list of 164.514(b)(2)(i).

/// The kinds of identifier that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// (A) A person's name.
    Name,
    /// (B) A street address, with city and ZIP where they follow.
    Address,
    /// (C) A date that belongs to a person.
    Date,
    /// (C) An age above 89.
    Age,
    /// (D), (E) A telephone or fax number.
    Phone,
    /// (F) An e-mail address.
    Email,
    /// (G) A social security number.
    Ssn,
    /// (H) A medical record, chart, encounter or accession number.
    Mrn,
    /// (I) A health plan number.
    Plan,
    /// (J) An account number.
    Account,
    /// (J) A payment card number.
    Card,
    /// (K) A licence or certificate number of a person.
    License,
    /// (L) A vehicle's number or plate.
    Vehicle,
    /// (M) A serial number of a device a patient carries.
    Device,
    /// (N) An address on the web that opens one person's data.
    Url,
    /// (O) A public network address beside a person.
    Ip,
    /// (R) A national provider identifier.
    Npi,
    /// (R) The account name in a user's path.
    User,
}

impl Kind {
    /// The word that stands in the tag.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Address => "ADDRESS",
            Self::Date => "DATE",
            Self::Age => "AGE",
            Self::Phone => "PHONE",
            Self::Email => "EMAIL",
            Self::Ssn => "SSN",
            Self::Mrn => "MRN",
            Self::Plan => "PLAN",
            Self::Account => "ACCOUNT",
            Self::Card => "CARD",
            Self::License => "LICENSE",
            Self::Vehicle => "VEHICLE",
            Self::Device => "DEVICE",
            Self::Url => "URL",
            Self::Ip => "IP",
            Self::Npi => "NPI",
            Self::User => "USER",
        }
    }

    /// Whether finding one says that the line speaks of a person; a user's path on a computer does not.
    pub(super) const fn is_proof(self) -> bool {
        match self {
            Self::User => false,
            Self::Name
            | Self::Address
            | Self::Date
            | Self::Age
            | Self::Phone
            | Self::Email
            | Self::Ssn
            | Self::Mrn
            | Self::Plan
            | Self::Account
            | Self::Card
            | Self::License
            | Self::Vehicle
            | Self::Device
            | Self::Url
            | Self::Ip
            | Self::Npi => true,
        }
    }
}
