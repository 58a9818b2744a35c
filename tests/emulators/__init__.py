"""The emulators that the tests run on: Google's for Firestore, `gcp-storage-emulator` made strict for Cloud Storage."""
