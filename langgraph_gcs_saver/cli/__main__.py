"""`python -m langgraph_gcs_saver.cli` is `langgraph-gcs`."""

from langgraph_gcs_saver.cli import main

if __name__ == "__main__":
    main()
