import json
import time

import polars as pl
import pytest

from edgelora.engine.data.scan import scan
from edgelora.errors import DataError, MissingFile


def write(path, content):
    path.write_bytes(content)
    return path


def refusal(path):
    with pytest.raises(DataError) as caught:
        list(scan(path))
    return caught.value


def test_lines_are_numbered_as_an_editor_shows_them(tmp_path):
    path = write(
        tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n   \n{"b": "\xf0\x9f\x8c\xa1"}\n\n{"c": 2}'
    )
    assert list(scan(path)) == [(1, {"a": 1}), (4, {"b": "🌡"}), (6, {"c": 2})]


def test_rows_with_different_keys_and_nesting_share_a_file(tmp_path):
    rows = [{"a": "1"}, {"a": [1, {"b": None}]}, {"z": 9.5}]
    path = write(tmp_path / "a.ndjson", "\n".join(map(json.dumps, rows)).encode())
    assert [row for _, row in scan(path)] == rows


def test_elements_of_a_json_array_are_numbered_by_line(tmp_path):
    path = write(tmp_path / "a.json", b'\n[\n  {"a": "[,]"},\n\n  {"a":\n "2"}, {"a": "3"}\n]\n')
    assert list(scan(path)) == [(3, {"a": "[,]"}), (5, {"a": "2"}), (6, {"a": "3"})]


def test_a_json_file_may_hold_one_object_per_line(tmp_path):
    path = write(tmp_path / "a.json", b'{"a": 1}\n{"a": 2}\n')
    assert list(scan(path)) == [(1, {"a": 1}), (2, {"a": 2})]


def test_csv_rows_are_numbered_by_line_across_quoted_line_breaks(tmp_path):
    path = write(tmp_path / "a.csv", b'\xef\xbb\xbf\na,b\r\n1,"x\r\ny ""z"""\r\n\r\n3.10,null\r\n')
    assert list(scan(path)) == [(3, {"a": "1", "b": 'x\r\ny "z"'}), (6, {"a": "3.10", "b": "null"})]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_decimal_commas_stay_text(tmp_path, name, mark):
    path = write(tmp_path / name, f"prompt{mark}completion\n9,11{mark}9,9\n".encode())
    assert list(scan(path)) == [(2, {"prompt": "9,11", "completion": "9,9"})]


def test_empty_csv_fields_are_left_out(tmp_path):
    path = write(tmp_path / "a.csv", b'a,b,c\n1,,3\n,"",\n')
    assert list(scan(path)) == [(2, {"a": "1", "c": "3"}), (3, {"b": ""})]


def test_parquet_rows_are_numbered_from_one_and_keep_their_nesting(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": None}] * 2
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    assert list(scan(tmp_path / "a.parquet")) == [(n, {"messages": rows[0]["messages"]}) for n in (1, 2)]


@pytest.mark.parametrize("content", [b"", b"\n \n\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_a_file_of_nothing_has_no_rows(tmp_path, name, content):
    assert list(scan(write(tmp_path / name, content))) == []


def test_a_file_name_is_not_a_pattern(tmp_path):
    for name in ("a[1].jsonl", "b*.csv"):
        content = b'{"text": "x"}\n' if name.endswith("jsonl") else b"text\nx\n"
        assert len(list(scan(write(tmp_path / name, content)))) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_byte_that_is_not_utf8_is_located(tmp_path, name):
    error = refusal(write(tmp_path / name, b'["a",\n"b"]\n"caf\xe9"\n'))
    assert error.problem == f"{name}:3: byte 5 (0xe9) is not UTF-8"
    assert error.fix == f"convert the file: iconv -f WINDOWS-1252 -t UTF-8 {name}"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "a.jsonl",
            b'{"a": 1}\n\n{"a": \n',
            "a.jsonl:3: not valid JSON: Expecting value: line 1 column 7 (char 6)",
        ),
        ("a.jsonl", b"[1, 2]\n", "a.jsonl:1: the row is [1, 2], not an object with keys"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not valid JSON: it is nested too deeply"),
        ("a.json", b'[{"a": 1},\n"b"]', 'a.json:2: the row is "b", not an object with keys'),
        ("a.json", b'[{"a": 1}\n', "a.json:2: the array is not closed after this element"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "a.json:1: the array is not closed after this element"),
        ("a.json", b'\n"text"', "a.json:2: expected '[' and found '\"'"),
        ("a.csv", b'a,b\n1,2\n"x\ny",4,5\n', "a.csv:3: 3 fields, and the header names 2"),
        ("a.csv", b'a,b\n1,2\n"3,4\n', "a.csv:3: the row that starts here is not valid CSV"),
        ("a.parquet", b"PAR1", "a.parquet is not a parquet file Polars reads"),
        ("a.txt", b"text", "a.txt is not a data file edgelora reads"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path, name, content, problem):
    error = refusal(write(tmp_path / name, content))
    assert error.problem.startswith(problem)
    assert error.fix


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFile, match=r"there is no data file .*/none\.jsonl") as caught:
        list(scan(tmp_path / "none.jsonl"))
    assert "relative paths start at the recipe's folder" in caught.value.fix


def test_a_folder_is_no_data_file(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    assert "is not a data file" in refusal(tmp_path / "a.jsonl").problem


def test_a_huge_line_is_read(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "' + b"x" * 20_000_000 + b'"}\n{"text": "y"}\n')
    assert [len(row["text"]) for _, row in scan(path)] == [20_000_000, 1]


def test_a_hundred_thousand_rows_are_scanned_in_seconds(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"instruction": "say", "output": "something"}\n' * 100_000)
    start = time.perf_counter()
    assert sum(1 for _ in scan(path)) == 100_000
    # It takes about half a second; the bound leaves room for a busy machine.
    assert time.perf_counter() - start < 10
