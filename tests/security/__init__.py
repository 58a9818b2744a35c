"""What attackers try, by file.

| file | question |
|---|---|
| `test_reading_runs_nothing.py` | Does a command, or a method of `Admin`, run what a store names? |
| `test_shapes.py` | What happens with documents that no writer makes, but with correct digests? |
| `test_clear_text.py` | Does a saver with a cipher read what was stored without the key? |
| `test_transplants.py` | Does it read a ciphertext that was moved to another place? |
| `test_key_rotation.py`, `test_encrypting_serializer.py` | Is anything lost, or disclosed, as keys change? |
| `test_side_by_side.py` | Do threads of other keys and versions stop any other? |
| `test_file_system.py`, `test_permissions.py`, `test_letter_case.py` | What do links, owners, modes and names do? |
| `test_prefixes.py` | Are objects below a prefix left alone if they are not the store's? |
| `test_connection_strings.py` | Is a password quoted, or sent in clear? |
| `test_patterns.py` | Does a regular expression hang? |
| `test_memory.py`, `test_size_limits.py` | How much memory does a small store take? |
| `test_kept_errors.py` | And errors, for as long as they are kept? |
| `test_every_method.py` | What do all methods, and their twins, do on such stores? Do they disclose the state? |
| `test_fuzzing.py`, `fuzzing/` | What happens with mutations of everything stored, and of archives? |
| `test_registry.py`, `registry.py` | Is every command, method and collection among what is tried? |

`hostile.py`, `forging.py` and `sealing.py` make the stores: values that name code, documents that are sealed again, and
envelopes of any content. `docs/explanation/security.md` says which test holds which claim.
"""
