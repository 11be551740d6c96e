# A guest without an operating system: it writes blocks of 4 KiB one after the other, each full of its own number, to
# places that follow from the number, and after each the number into sector 1 of the first disk. So whatever moment its
# disks are of, they say which one, and all that must stand on them follows from that.
.code16
.globl _start
_start:
  cli
  xor %ax,%ax
  mov %ax,%ds
  mov %ax,%es
  mov %ax,%ss
  mov $0x7c00,%sp
  sti
  cld
  # what was written last: the first dword of sector 1
  movw $1, dap_count
  movl $1, dap_lba
  mov $0x42,%ah
  mov $0x80,%dl
  mov $dap,%si
  int $0x13
  movl 0x8000,%ebx
next:
  inc %ebx
  mov %ebx,%eax
  mov $0x8000,%di
  mov $1024,%cx
  rep stosl
  imull $40503,%ebx,%eax
  andl mask,%eax
  shll $3,%eax
  addl $2048,%eax
  movl %eax,dap_lba
  movw $8,dap_count
  mov %bl,%dl
  andb disks,%dl
  call write
  movl $1,dap_lba
  movw $1,dap_count
  xor %dl,%dl
  call write
  mov ticks,%cx
  jcxz next
wait:
  movw 0x46c,%ax
1: hlt
  cmpw 0x46c,%ax
  je 1b
  loop wait
  jmp next
write:
  orb $0x80,%dl
  mov $0x4300,%ax
  mov $dap,%si
  int $0x13
  ret
.balign 4
dap: .byte 16,0
dap_count: .word 1
 .word 0x8000,0
dap_lba: .long 1,0
.org 496
ticks: .word 1
disks: .byte 0,0
mask: .long 1023
.org 510
.byte 0x55,0xaa
