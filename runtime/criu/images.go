// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
)

// FilesImage lists the open files. Its format is two magic numbers, then
// messages file_entry, each behind its length.
const (
	FilesImage  = "files.img"
	commonMagic = 0x54564319
	filesMagic  = 0x56303138
)

// A Replacement is an external file in whose place Restore puts another.
type Replacement struct {
	Name   string // of Options.External
	Stream bool   // the other has no position
}

// Replaceable returns a FilesImage for the directory of images that lets the
// files be replaced: CRIU compares the mode of a file and seeks to where it
// was, and a pipe has another mode and no position.
func Replaceable(images string, files []Replacement) ([]byte, error) {
	name := filepath.Join(images, FilesImage)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if data, err = replaceable(data, files); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

var errFilesImage = errors.New("not an image of files")

func replaceable(data []byte, files []Replacement) ([]byte, error) {
	if len(data) < 8 || binary.LittleEndian.Uint32(data) != commonMagic || binary.LittleEndian.Uint32(data[4:]) != filesMagic {
		return nil, errFilesImage
	}
	out, data := data[:8:8], data[8:]
	for len(data) > 0 {
		if len(data) < 4 {
			return nil, errFilesImage
		}
		size := uint64(binary.LittleEndian.Uint32(data))
		if size > uint64(len(data)-4) {
			return nil, errFilesImage
		}
		entry, err := edit(data[4:4+size], func(n number, b, field []byte) (fields, error) {
			if n != entryFile {
				return field, nil
			}
			file, err := replaceableFile(b, files)
			var f fields
			f.message(entryFile, file)
			return f, err
		})
		if err != nil {
			return nil, err
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(entry)))
		out, data = append(out, entry...), data[4+size:]
	}
	return out, nil
}

// Fields of file_entry and of reg_file_entry (images/fdinfo.proto and
// regfile.proto).
const (
	entryFile = 3

	filePosition = 3
	fileName     = 6
	fileSize     = 8
	fileMode     = 10
)

// noPosition is where CRIU does not seek to.
const noPosition = math.MaxUint64

// replaceableFile is a reg_file_entry that fits what takes its place.
func replaceableFile(entry fields, files []Replacement) (fields, error) {
	var name string
	err := eachField(entry, func(n number, _ uint64, b []byte) error {
		if n == fileName {
			name = string(b)
		}
		return nil
	})
	for _, f := range files {
		if err != nil || f.Name != name {
			continue
		}
		return edit(entry, func(n number, _, field []byte) (fields, error) {
			switch {
			case n == fileSize || n == fileMode:
				return nil, nil
			case n == filePosition && f.Stream:
				var position fields
				position.number(filePosition, noPosition)
				return position, nil
			}
			return field, nil
		})
	}
	return entry, err
}
