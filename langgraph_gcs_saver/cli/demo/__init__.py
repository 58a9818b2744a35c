"""What `langgraph-gcs demo` plays."""
