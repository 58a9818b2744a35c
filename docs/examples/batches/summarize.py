"""Summarize 50 documents. Kill this program and start it again, or start it several times at once."""

import os

from langgraph_gcs_saver import GCSSaver, errors

DOCUMENTS = [{"id": f"document-{number}", "text": f"Text number {number}."} for number in range(1, 51)]


def summarize(text: str) -> str:
    """Call a model here."""
    if text == "Text number 33.":
        raise ValueError("the model has no answer")
    return text.upper()


def submit(key: str) -> str:
    """Call your provider here, and give it the key."""
    return f"receipt of {key}"


def main() -> None:
    """Handle the documents that are left, and submit all summaries once."""
    with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"]) as saver:
        thread = saver.thread("nightly")
        with thread.batch("summaries", DOCUMENTS, key=lambda one: one["id"], chunk=10, on_done="skip") as batch:
            print(f"{batch.already_done} documents were done before")
            for document in batch:
                try:
                    summary = summarize(document["text"])
                except ValueError as error:
                    batch.fail(document, error)
                else:
                    batch.done(document, output=summary)
            try:
                batch.finish(submit)
            except errors.OperationInProgressError:
                print("another process submits the summaries")
        print(batch.progress)


if __name__ == "__main__":
    main()
