"""Files as strangers send them: what is refused and why, and what is odd and read nevertheless.

All are for `small_model`; the same tables are held against the command and against the API.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from dataclasses import dataclass
from typing import Final

HEAD = "customer,tenure,price,support,plan"
ROW = "00123,1,20,yes,Monthly"
ANOTHER = "A7,30,100,no,One year"
SCORES: Final = ("0.524979", "0.135873")  # of the two


def lines(*rows: str, head: str = HEAD) -> str:
    return "\n".join((head, *rows, ""))


def xlsx() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("customers.csv", lines(ROW))
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that cannot be used: the code, a pattern of what is said, and which option answers."""

    data: bytes | str
    code: str
    says: str
    option: str | None = None

    @property
    def content(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data.encode()


REFUSED: Final = {
    "workbook": Refused(xlsx(), "not_csv", "Excel workbook"),
    "zip": Refused(zipped(), "not_csv", "zip archive"),
    "pdf": Refused(b"%PDF-1.7\n1 0 obj", "not_csv", "PDF"),
    "gzip named csv": Refused(
        gzip.compress(lines(ROW).encode()), "not_csv", "gzip.*name it .csv.gz"
    ),
    "old workbook": Refused(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "not_csv", r"\.xls"),
    "html": Refused("<html><table><tr><td>1</td></tr></table></html>", "not_csv", "HTML"),
    "json": Refused('[{"customer": "a"}]', "not_csv", "JSON"),
    "parquet": Refused(b"PAR1\x15\x04", "not_csv", "Parquet"),
    "binary": Refused(bytes(range(256)) * 8 + bytes(4096), "not_csv", "not text"),
    "utf-32": Refused(lines(ROW).encode("utf-32"), "not_csv", "UTF-32"),
    "cp1252": Refused(
        lines(ROW, "Ren\xe9,1,20,yes,Monthly").encode("cp1252"),
        "not_utf8",
        "Byte 61 .*'René,1.*cp1252",
        "encoding",
    ),
    "cut utf-8": Refused(
        lines(ROW).encode() + "é".encode()[:1], "not_utf8", "not UTF-8", "encoding"
    ),
    "empty": Refused("", "empty", "empty"),
    "blank": Refused(" \n\n\t\r\n ", "empty", "empty"),
    "only a mark": Refused(b"\xef\xbb\xbf", "empty", "empty"),
    "header only": Refused(HEAD + "\n", "no_rows", "no rows"),
    "header and blank lines": Refused(HEAD + "\r\n\r\n\n", "no_rows", "no rows"),
    "header without line end": Refused(HEAD, "no_rows", "no rows"),
    "no header": Refused(
        "00123,1,20.5,yes,Monthly\nA7,30,100,no,One year\n",
        "no_header",
        "holds values .*names",
        "header_row",
    ),
    "preamble": Refused(
        "Customers of January\n\n" + lines(ROW, ANOTHER),
        "header_row",
        "Row 1 .* row 3 ",
        "header_row",
    ),
    "wrong columns": Refused(
        "a,b\n1,2\n", "missing_column", "needs .*'tenure'.*does not have", "map"
    ),
    "one column": Refused("customer\n00123\n", "no_delimiter", "one column only"),
    "two delimiters": Refused(
        "a;b,c;d\n1;2,3;4\n5;6,7;8\n", "ambiguous_delimiter", "comma .* semicolon", "delimiter"
    ),
    "duplicate name": Refused(
        lines(ROW + ",2", head=HEAD + ",Tenure"), "duplicate_column", "#2 and #6 .*'tenure'", "map"
    ),
    "similar name": Refused(
        lines(ROW, head=HEAD.replace("tenure", "tenures")),
        "unclear_mapping",
        "Is .* 'tenures'",
        "map",
    ),
    "too many columns": Refused(
        ",".join(f"c{i}" for i in range(10_000)) + "\n1\n", "too_many_columns", "10,000 columns"
    ),
    "long name": Refused(
        lines(ROW + ",1", head=HEAD + "," + "x" * 300), "name_too_long", "longer than 256 bytes"
    ),
    "long header": Refused(
        lines(ROW, head=HEAD + ", " * 40_000), "header_too_long", "longer than|columns"
    ),
    "unclosed quote": Refused(
        lines(ROW, 'b,1,20,yes,"Monthly', ANOTHER), "unclosed_quote", "opens in line 3 "
    ),
    "unclosed quote in the header": Refused(
        'customer,"tenure,price\n' + ROW, "unclosed_quote", "opens in line 1 "
    ),
    "long record": Refused(
        lines(ROW, "b" * (2 << 20) + ",1,20,yes,Monthly"), "record_too_long", "Row 3 is longer"
    ),
    "quote closed far below": Refused(
        lines(ROW, 'b,1,20,yes,"Mon', *[ANOTHER] * 100_000, '"x'),
        "unclosed_quote",
        "opens in line 3 ",
    ),
}


@dataclass(frozen=True, slots=True)
class Fine:
    """A file with `ROW` and `ANOTHER` in some form, and the options that it needs."""

    data: bytes | str
    options: tuple[str, ...] = ()
    notice: str | None = None  # what is said of it

    @property
    def content(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data.encode()


FINE: Final = {
    "utf-8 with a mark": Fine(lines(ROW, ANOTHER).encode("utf-8-sig")),
    "utf-16": Fine(lines(ROW, ANOTHER).encode("utf-16")),
    "utf-16 without a mark": Fine(lines(ROW, ANOTHER).encode("utf-16-le")),
    "utf-16 the other way": Fine(lines(ROW, ANOTHER).encode("utf-16-be")),
    "cp1252 as said": Fine(
        lines(ROW + ",é", ANOTHER + ",x", head=HEAD + ",note").encode("cp1252"),
        ("--encoding", "windows-1252"),
    ),
    "semicolons": Fine(lines(ROW, ANOTHER).replace(",", ";")),
    "tabs": Fine(lines(ROW, ANOTHER).replace(",", "\t")),
    "pipes": Fine(lines(ROW, ANOTHER).replace(",", "|")),
    "another delimiter": Fine(lines(ROW, ANOTHER).replace(",", "^"), ("--delimiter", "^")),
    "sep=": Fine(
        "sep=;\n" + lines(ROW, ANOTHER).replace(",", ";"),
        notice="Row 1 says that the delimiter is ';'",
    ),
    "CR LF": Fine(lines(ROW, ANOTHER).replace("\n", "\r\n")),
    "CR": Fine(lines(ROW, ANOTHER).replace("\n", "\r")),
    "all quoted": Fine(re.sub(r"[^,\n]+", r'"\g<0>"', lines(ROW, ANOTHER))),
    "no line end": Fine(lines(ROW, ANOTHER).rstrip("\n")),
    "blank lines": Fine(lines("", ROW, "", "", ANOTHER, "")),
    "trailing delimiters": Fine(
        lines(ROW + ",", ANOTHER + ","), notice="Each row ends with a delimiter"
    ),
    "trailing delimiters also above": Fine(
        lines(ROW + ",", ANOTHER + ",", head=HEAD + ","), notice="column 6"
    ),
    "another order": Fine(
        lines(
            "Monthly,yes,20,00123,1",
            "One year,no,100,A7,30",
            head="plan,support,price,customer,tenure",
        )
    ),
    "columns that nobody needs": Fine(lines(ROW + ",x,1", ANOTHER + ",y,2", head=HEAD + ",a,a")),
    "spelled otherwise": Fine(
        lines(ROW, ANOTHER, head=" Customer ,TENURE,Price,support,Ｐｌａｎ"),
        notice="'TENURE' was read as 'tenure'",
    ),
    "invisible characters": Fine(
        lines(ROW, ANOTHER, head="\u200bcustomer,ten\u200bure,price,support,plan"),
        notice="Invisible characters",
    ),
    "the label is there": Fine(
        lines(ROW + ",yes", ANOTHER + ",no", head=HEAD + ",churned"),
        notice="holds 'churned', which the model predicts",
    ),
    "preamble as said": Fine("January\n\n" + lines(ROW, ANOTHER), ("--header-row", "3")),
    "similar as said": Fine(
        lines(ROW, ANOTHER, head=HEAD.replace("tenure", "months")), ("--map", "tenure=months")
    ),
    "by number": Fine(
        lines(ROW + ",9", ANOTHER + ",9", head=HEAD + ",tenure"), ("--map", "tenure=#2")
    ),
    "inch marks": Fine(lines(ROW + ',12" x', ANOTHER + ',5" y', head=HEAD + ",note")),
}
